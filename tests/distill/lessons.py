"""A student and its teachers with the criterion of a distillation, outside of any training."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from small_nets import IMGSZ
from torch import Tensor, nn
from ultralytics.cfg import get_cfg

from compress.distill.extension import Distillation
from compress.distill.schedule import Temperature, Weight
from compress.distill.settings import Settings
from compress.distill.teachers import TeacherSpec
from compress.distill.terms import TermSpec
from compress.models.trainer import TrainingRun

CPU = torch.device("cpu")
OPTIONS: dict[str, dict[str, Any]] = {
    "mgd": {"masked": 0.65},
    "fgd": {"foreground": 1.0, "background": 0.5, "attention": 1.0, "relation": 0.005},
    "bckd": {"beta": 1.0, "boxes": 4.0},
    "objectness": {"classes": "l2", "feature_nms": True},
    "focal": {"gamma": 2.0, "alpha": 0.25},
    "crosskd": {"boxes": 1.0},
}
TEMPERATURES = {"cwd": 1.0, "fgd": 0.5, "kl": 3.0, "bce": 1.0, "ld": 10.0, "objectness": 1.0}
FEATURE_KINDS = ("cwd", "mimic", "mgd", "pkd", "fgd", "at", "attention")
OUTPUT_KINDS = (
    "l1", "l2", "kl", "bce", "bckd", "ld", "objectness", "focal", "ciou", "crosskd",
)  # fmt: skip


def term(kind: str, weight: Weight | float = 1.0, **changes: Any) -> TermSpec:
    """A term of this kind with its usual options."""
    given = weight if isinstance(weight, Weight) else Weight(weight)
    temperature = TEMPERATURES.get(kind)
    values: dict[str, Any] = {
        "kind": kind,
        "name": kind,
        "weight": given,
        "temperature": None if temperature is None else Temperature(temperature),
        "options": OPTIONS.get(kind, {}),
    }
    return TermSpec(**{**values, **changes})


def batch_of(images: Tensor) -> dict[str, Tensor]:
    """A training batch: one square in the middle of every image."""
    count = len(images)
    return {
        "img": images,
        "batch_idx": torch.arange(count).float(),
        "cls": torch.zeros(count, 1),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(count, 1),
    }


def eval_with_raw_outputs(model: nn.Module) -> None:
    """Eval mode, but the head gives what a loss wants."""
    model.eval()
    model.model[-1].training = True


class Classroom:
    """A student with the criterion of a distillation."""

    def __init__(
        self,
        student: nn.Module,
        *teachers: nn.Module | TeacherSpec,
        terms: list[TermSpec],
        settings: Settings | None = None,
        average: Callable[[], nn.Module] | None = None,
        epochs: int = 10,
    ) -> None:
        student.args = get_cfg()
        self.student = student.train()
        specs = [t if isinstance(t, TeacherSpec) else TeacherSpec(t) for t in teachers]
        self.distillation = Distillation(specs, terms, settings)
        self.distillation.prepare(student, CPU, IMGSZ)
        run = TrainingRun(epochs, 5, epochs - 2, CPU, average or (lambda: student), student.args)
        self.distillation.begin(run)
        self.stock = student.init_criterion()
        self.criterion = self.distillation.wrap_criterion(student, student.init_criterion())
        self.distillation.start_epoch(0)

    def loss(self, images: Tensor, **extra: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and items of a batch."""
        batch = {**batch_of(images), **extra}
        result: tuple[Tensor, dict[str, Tensor]] = self.criterion(self.student(images), batch)
        return result


def counting(calls: list[int]) -> Any:
    """A criterion with an update, as those of end-to-end heads have."""
    return SimpleNamespace(update=lambda: calls.append(1))
