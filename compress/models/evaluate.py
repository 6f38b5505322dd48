"""How good a model or an exported file is on its task, as stock ultralytics measures it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from compress.errors import CompressError
from compress.models.inspect import is_end_to_end
from compress.models.openvino_ir import write_ir
from compress.models.quiet import quiet_ultralytics
from compress.models.tasks import Task, task_of, task_of_file

Runtime = Literal["onnxruntime", "openvino"]

# what the mAP of a task is about, and where ultralytics keeps it among the metrics
_SUBJECTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "detect": ("boxes", "box"),
        "segment": ("masks", "seg"),
        "pose": ("keypoints", "pose"),
        "obb": ("oriented boxes", "box"),
    }
)


@dataclass(frozen=True)
class Accuracy:
    """Mean average precision, 0 to 1, of ``subject``.

    That is the task's own output: boxes, masks, keypoints (by object keypoint similarity) or
    oriented boxes.
    """

    map50: float
    map50_95: float
    subject: str = "boxes"


@dataclass(frozen=True)
class ClassAccuracy:
    """Share of images, 0 to 1, whose class is the likeliest, or among the 5 likeliest."""

    top1: float
    top5: float


def evaluate(
    model: nn.Module | Path,
    data: Path,
    imgsz: int,
    split: str = "val",
    batch: int = 16,
    device: str = "cpu",
    runtime: Runtime = "onnxruntime",
) -> Accuracy:
    """MAP of ``model`` on one split of ``data``, on square images of ``imgsz`` pixels.

    Images are padded to squares for checkpoints and ONNX files alike, so that the figures of all
    stages can be compared. An ONNX file runs in ``runtime``, one image at a time; a checkpoint in
    PyTorch. Models with an end-to-end head are measured without non-maximum suppression.

    Raises:
        CompressError: if the model is a classifier: it has no mAP; or if ``runtime`` is missing or
            cannot read the file.
    """
    task = _task_of(model)
    if task.name not in _SUBJECTS:
        raise CompressError("A classifier has no mAP: measure it with evaluate_classes.")
    subject, kept = _SUBJECTS[task.name]
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, Path) and runtime == "openvino":
            model = write_ir(model, Path(folder))
        metric = getattr(_validated(model, task, data, imgsz, split, batch, device), kept)
    return Accuracy(float(metric.map50), float(metric.map), subject)


def evaluate_classes(
    model: nn.Module | Path,
    folder: Path,
    imgsz: int,
    split: str = "val",
    batch: int = 16,
    device: str = "cpu",
) -> ClassAccuracy:
    """Top-1 and top-5 accuracy of a classifier on ``folder``/``split``, one folder a class.

    Raises:
        CompressError: if the model is no classifier.
    """
    task = _task_of(model)
    if task.name != "classify":
        raise CompressError(f"A model for the task '{task.name}' has no top-1 accuracy.")
    metrics = _validated(model, task, folder, imgsz, split, batch, device)
    return ClassAccuracy(float(metrics.top1), float(metrics.top5))


def _task_of(model: nn.Module | Path) -> Task:
    return task_of(model) if isinstance(model, nn.Module) else task_of_file(model)


def _validated(
    model: nn.Module | Path,
    task: Task,
    data: Path,
    imgsz: int,
    split: str,
    batch: int,
    device: str,
) -> Any:
    """Metrics of ultralytics' own validator of ``task``."""
    given = isinstance(model, nn.Module)
    # validation fuses layers in place: work on a copy
    subject = deepcopy(model) if given else str(model)
    with quiet_ultralytics(), tempfile.TemporaryDirectory() as folder:
        validator = task.validator(
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
                "task": task.name,
                "mode": "val",
                "nms": False if isinstance(model, nn.Module) and is_end_to_end(model) else None,
                "model": "" if given else str(model),
            },
        )
        validator(model=subject)
        return validator.metrics
