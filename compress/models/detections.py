"""Pictures of what two exported files detect, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from ultralytics import YOLO

from compress.models.quiet import quiet_ultralytics
from compress.models.tasks import task_of_file

Image = npt.NDArray[np.uint8]
CONFIDENCE = 0.25
_HEIGHT = 360  # pixels of one picture


def draw_side_by_side(
    files: Mapping[str, Path], images: Sequence[Path], imgsz: int, output: Path
) -> None:
    """One row an image, one column an ONNX file with its title, written as JPEG."""
    columns = [_column(title, path, images, imgsz) for title, path in files.items()]
    rows = [np.hstack(row) for row in zip(*columns, strict=True)]
    width = max(row.shape[1] for row in rows)
    sheet = np.vstack([_pad(row, width) for row in rows])
    ok, data = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert ok
    output.write_bytes(data.tobytes())


def _column(title: str, path: Path, images: Sequence[Path], imgsz: int) -> list[Image]:
    with quiet_ultralytics():
        model = YOLO(str(path), task=task_of_file(path).name)
        pictures = []
        for image in images:
            result = model.predict(
                str(image), imgsz=imgsz, conf=CONFIDENCE, verbose=False, device="cpu", save=False
            )[0]
            thin = max(1, round(min(result.orig_shape) / 240))  # labels grow with the line
            pictures.append(_titled(_scaled(result.plot(line_width=thin)), title))
    return pictures


def _scaled(picture: Image) -> Image:
    height, width = picture.shape[:2]
    return cv2.resize(picture, (round(width * _HEIGHT / height), _HEIGHT))


def _titled(picture: Image, title: str) -> Image:
    band = np.full((26, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(band, title, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([band, picture])


def _pad(row: Image, width: int) -> Image:
    return cv2.copyMakeBorder(
        row, 0, 6, 0, width - row.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )
