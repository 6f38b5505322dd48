"""The data set that the project draws itself: nothing to download, the same bytes every time."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import yaml

from compress.data.scene import SIDE, Box, draw_scene
from compress.data.shapes import OBJECTS
from compress.errors import CompressError

VERSION = 1  # of the pictures: raised whenever a scene is drawn in another way
COUNTS: Mapping[str, int] = MappingProxyType({"train": 320, "val": 96, "test": 96})
JPEG_QUALITY = 95
DATA_YAML = "sample.yaml"
MANIFEST = "manifest.json"


def draw_sample(folder: Path, counts: Mapping[str, int] = COUNTS, seed: int = 0) -> Path:
    """Draw the data set into ``folder``, unless it is there already, and give its data yaml.

    ``counts`` is the number of pictures a split. The folder appears whole or not at all.

    Raises:
        CompressError: the folder holds something else, or cannot be written.
    """
    manifest = {"version": VERSION, "seed": seed, "counts": dict(counts)}
    if _manifest(folder) == manifest:
        return folder / DATA_YAML
    if folder.exists() and any(folder.iterdir()) and _manifest(folder) is None:
        raise CompressError(
            f"{folder}: cannot draw the sample data here, the folder holds other files. "
            "Move them away or give another folder"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
            drawn = Path(place, "sample")
            for number, (split, count) in enumerate(counts.items()):
                _draw_split(drawn, split, count, (seed, number))
            _write_yaml(drawn / DATA_YAML, counts)
            (drawn / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            _move(drawn, folder, manifest)
    except OSError as error:
        raise CompressError(
            f"{folder}: cannot write the sample data: {error.strerror}. "
            "It needs 10 MB in a folder that can be written"
        ) from error
    return folder / DATA_YAML


def _manifest(folder: Path) -> object:
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None


def _move(drawn: Path, folder: Path, manifest: object) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # an older version of it
    try:
        drawn.rename(folder)
    except OSError:
        if _manifest(folder) != manifest:  # else another process was first
            raise


def _draw_split(root: Path, split: str, count: int, seed: tuple[int, int]) -> None:
    import cv2
    import numpy as np

    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index in range(count):
        pixels, boxes = draw_scene(np.random.default_rng([*seed, index]))
        _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (images / f"{index:04}.jpg").write_bytes(encoded.tobytes())
        rows = "".join(f"{_label(box)}\n" for box in boxes)
        (labels / f"{index:04}.txt").write_text(rows, newline="\n")


def _label(box: Box) -> str:
    """Class, centre, width and height as shares of the picture, as YOLO wants them."""
    sizes = (box.right - box.left, box.bottom - box.top)
    centre = (box.left + sizes[0] / 2, box.top + sizes[1] / 2)
    return " ".join([str(box.kind), *(f"{value / SIDE:.6f}" for value in (*centre, *sizes))])


def _write_yaml(file: Path, counts: Mapping[str, int]) -> None:
    content = {split: f"images/{split}" for split in counts} | {"names": dict(enumerate(OBJECTS))}
    note = "# Drawn by yolo-compress (compress/data/sample.py); free of any licence\n"
    file.write_text(note + yaml.safe_dump(content, sort_keys=False))
