"""mAP of a model or of an exported file, as stock ultralytics measures it."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from ultralytics.models.yolo.detect import DetectionValidator

from compress.models.quiet import quiet_ultralytics


@dataclass(frozen=True)
class Accuracy:
    """Mean average precision, 0 to 1."""

    map50: float
    map50_95: float


def evaluate(
    model: nn.Module | Path,
    data: Path,
    imgsz: int,
    split: str = "val",
    batch: int = 16,
    device: str = "cpu",
) -> Accuracy:
    """MAP of ``model`` on one split of ``data``, on square images of ``imgsz`` pixels.

    Images are padded to squares for checkpoints and ONNX files alike, so that the figures of all
    stages can be compared. An ONNX file runs in ONNX Runtime, one image at a time.
    """
    # validation fuses layers in place: work on a copy
    subject = deepcopy(model) if isinstance(model, nn.Module) else str(model)
    with quiet_ultralytics(), tempfile.TemporaryDirectory() as folder:
        validator = DetectionValidator(
            save_dir=Path(folder),
            args={
                "data": str(data),
                "imgsz": imgsz,
                "batch": batch,
                "split": split,
                "rect": False,
                "device": device,
                "plots": False,
                "workers": 0,
                "task": "detect",
                "mode": "val",
                "model": "" if isinstance(model, nn.Module) else str(model),
            },
        )
        validator(model=subject)
        box = validator.metrics.box
        return Accuracy(float(box.map50), float(box.map))
