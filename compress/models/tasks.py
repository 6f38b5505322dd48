"""What ultralytics has for each task: its model class, trainer and validator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
from torch import nn
from ultralytics.models.yolo.classify import ClassificationTrainer, ClassificationValidator
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.models.yolo.obb import OBBTrainer, OBBValidator
from ultralytics.models.yolo.pose import PoseTrainer, PoseValidator
from ultralytics.models.yolo.segment import SegmentationTrainer, SegmentationValidator
from ultralytics.nn.tasks import (
    ClassificationModel,
    DetectionModel,
    OBBModel,
    PoseModel,
    SegmentationModel,
)

from compress.models.heads import KeypointShape, task_of_head


@dataclass(frozen=True)
class Task:
    """A task by ultralytics' name, and the stock classes that serve it."""

    name: str
    model: Any  # classes without type hints
    trainer: Any
    validator: Any


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("detect", DetectionModel, DetectionTrainer, DetectionValidator),
            Task("segment", SegmentationModel, SegmentationTrainer, SegmentationValidator),
            Task("pose", PoseModel, PoseTrainer, PoseValidator),
            Task("obb", OBBModel, OBBTrainer, OBBValidator),
            Task("classify", ClassificationModel, ClassificationTrainer, ClassificationValidator),
        )
    }
)


def task_of(model: nn.Module) -> Task:
    """The task that the model's last layer is made for.

    Raises:
        CompressError: if no task is known for it.
    """
    head = model.model[-1] if hasattr(model, "model") else model
    return TASKS[task_of_head(type(head).__name__)]


def task_of_file(file: Path) -> Task:
    """The task that an exported ONNX file says it has; files that say none detect."""
    properties = onnx.load(str(file), load_external_data=False).metadata_props
    return TASKS[{entry.key: entry.value for entry in properties}.get("task", "detect")]


def keypoint_shape(model: nn.Module) -> KeypointShape | None:
    """Keypoints of an object and values of each (2: x, y; 3: and visibility), of a pose model."""
    shape = getattr(model.model[-1], "kpt_shape", None)
    return (int(shape[0]), int(shape[1])) if shape is not None else None
