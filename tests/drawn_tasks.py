"""Drawn data for every task: rotated rectangles with polygons, keypoints or corners as labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

NAMES = {0: "plain", 1: "framed", 2: "crossed"}
KEYPOINTS = (4, 3)
COUNTS = {"train": 16, "val": 8}
_SIDE = 96  # pixels
_COLORS = ((220, 60, 60), (60, 220, 60), (60, 60, 220))


@dataclass(frozen=True)
class Drawn:
    """A rectangle of class ``kind``, its corners (4, 2) in pixels, in order."""

    kind: int
    corners: npt.NDArray[np.float64]

    def row(self, task: str) -> str:
        """Its line in a label file."""
        points = np.clip(self.corners / _SIDE, 0, 1)
        low, high = points.min(0), points.max(0)
        box = [*(low + high) / 2, *(high - low)]
        seen = np.concatenate([points, np.full((len(points), 1), 2)], 1)
        values = {
            "detect": box,
            "segment": points.ravel(),
            "obb": points.ravel(),
            "pose": [*box, *seen.ravel()],
        }[task]
        return " ".join([str(self.kind), *(f"{value:.5f}" for value in values)])


def draw_task_data(root: Path, task: str) -> Path:
    """Draw 16 train and 8 val images; gives the data yaml, for ``classify`` the folder."""
    random = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for number in range(count):
            kinds = [number % len(NAMES)] if task == "classify" else random.integers(0, 3, 3)
            image, objects = _draw(random, [int(kind) for kind in kinds])
            if task == "classify":
                _write(root / split / NAMES[objects[0].kind] / f"{number:02}.png", image)
                continue
            _write(root / "images" / split / f"{number:02}.png", image)
            label = root / "labels" / split / f"{number:02}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(f"{drawn.row(task)}\n" for drawn in objects))
    if task == "classify":
        return root
    names = "".join(f"  {index}: {name}\n" for index, name in NAMES.items())
    extra = f"kpt_shape: {list(KEYPOINTS)}\nflip_idx: [1, 0, 3, 2]\n" if task == "pose" else ""
    yaml = root / "data.yaml"
    yaml.write_text(f"train: images/train\nval: images/val\n{extra}names:\n{names}")
    return yaml


def _draw(
    random: np.random.Generator, kinds: list[int]
) -> tuple[npt.NDArray[np.uint8], list[Drawn]]:
    image = random.integers(0, 80, (_SIDE, _SIDE, 3)).astype(np.uint8)
    objects = []
    for place, kind in enumerate(kinds):
        centre = (_SIDE * (place + 0.5) / len(kinds), float(random.uniform(30, _SIDE - 30)))
        size = (float(random.uniform(14, 22)), float(random.uniform(24, 34)))
        corners = cv2.boxPoints((centre, size, float(random.uniform(-40, 40)))).astype(float)
        cv2.fillPoly(image, [corners.astype(np.int32)], _COLORS[kind])
        if kind:
            shown = corners.astype(np.int32)
            cv2.line(image, shown[0], shown[2 if kind == 2 else 1], (255, 255, 255), 2)
        objects.append(Drawn(kind, corners))
    return image, objects


def _write(path: Path, image: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
