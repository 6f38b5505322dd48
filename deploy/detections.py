"""What was found in one image, in its own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.arrays import Floats, Indices
from deploy.masks import Mask


@dataclass(frozen=True)
class Detections:
    """Objects by falling score, in an image of size ``image`` (height, width).

    ``boxes`` (n, 4) are x1, y1, x2, y2, of rotated boxes the upright ones around them. By task also
    ``masks``, ``keypoints`` (n, count, 2 or 3: x, y, visibility) or ``rotated`` (n, 5): centre,
    width, height, angle in radians.
    """

    image: tuple[int, int]
    boxes: Floats
    scores: Floats
    classes: Indices
    masks: tuple[Mask, ...] | None = None
    keypoints: Floats | None = None
    rotated: Floats | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def as_json(self, labels: tuple[str, ...]) -> list[dict[str, Any]]:
        """One object a detection; lengths rounded to hundredths of a pixel."""
        return [self._row(index, labels) for index in range(len(self))]

    def _row(self, index: int, labels: tuple[str, ...]) -> dict[str, Any]:
        number = int(self.classes[index])
        row: dict[str, Any] = {
            "class": number,
            "name": labels[number],
            "score": round(float(self.scores[index]), 5),
            "box": _rounded(self.boxes[index]),
        }
        if self.keypoints is not None:
            row["keypoints"] = [_rounded(point) for point in self.keypoints[index]]
        if self.rotated is not None:
            row["rotated"] = _rounded(self.rotated[index], 5)
            row["corners"] = [
                _rounded(point) for point in corners(self.rotated[index : index + 1])[0]
            ]
        if self.masks is not None:
            row["mask"] = self.masks[index].run_lengths(self.image)
        return row


def corners(rotated: Floats) -> Floats:
    """The corners (n, 4, 2) of rotated boxes (n, 5), in order around each."""
    cos, sin = np.cos(rotated[:, 4:]), np.sin(rotated[:, 4:])
    along = rotated[:, 2:3] / 2 * np.concatenate([cos, sin], 1)
    across = rotated[:, 3:4] / 2 * np.concatenate([-sin, cos], 1)
    offsets = np.stack([along + across, along - across, -along - across, across - along], 1)
    return np.asarray(rotated[:, None, :2] + offsets)


def _rounded(values: Floats, digits: int = 2) -> list[float]:
    return [round(float(value), digits) for value in values]
