"""Distillation as an extension of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compress.distill.criterion import MUTUAL_LOSS, TEACHER_LOSS, DistillationCriterion
from compress.distill.schedule import EpochPlan, phase_at
from compress.distill.settings import Settings
from compress.distill.teachers import Lesson, TeacherSpec
from compress.distill.terms import TermSpec
from compress.errors import CompressError
from compress.models.inspect import is_end_to_end, neck_layers
from compress.models.soft_targets import SoftAssigner
from compress.models.trainer import TrainingExtension, TrainingRun

# batches, at least an epoch; gradients of each loss cost a backward pass of their own
MEASURED_EVERY = 100


class Distillation(TrainingExtension):
    """Adds what teachers say to the detection loss.

    Frozen teachers stay in eval mode without gradients; bridges are trained with the student,
    saved for resume and never part of its checkpoint.
    """

    def __init__(
        self,
        teachers: Sequence[TeacherSpec],
        terms: Sequence[TermSpec],
        settings: Settings | None = None,
    ) -> None:
        """Each of ``terms`` applies to each of ``teachers``; their names must differ."""
        self.teachers = list(teachers)
        self.terms = list(terms)
        self.settings = settings or Settings()
        self.lessons: list[Lesson] = []
        self.run: TrainingRun | None = None
        self.criterion: DistillationCriterion | None = None
        self._shares: dict[str, float] = {}
        self._end_to_end = False

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        """Match layers and build bridges, before the optimizer is built."""
        self._end_to_end = is_end_to_end(model)
        if self.settings.soft_targets is not None:
            for teacher in self.teachers:
                _require_same_cells(model, teacher.model or model)
        self.lessons = [
            Lesson(teacher, self.terms, model, imgsz, device) for teacher in self.teachers
        ]

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """The bridges without decay; an online teacher trained like the student."""
        del model
        bridges = [p for lesson in self.lessons for p in lesson.modules.parameters()]
        online = [p for lesson in self.lessons for p in lesson.teacher_parameters()]
        still = {"lr": lr, "weight_decay": 0.0}
        groups: list[dict[str, Any]] = [
            {**still, "params": bridges, "param_group": "projector"},
            {**still, "params": [p for p in online if p.dim() < 2], "param_group": "teacher"},
            # with the student's decay
            {"lr": lr, "params": [p for p in online if p.dim() > 1], "param_group": "teacher"},
        ]
        return [group for group in groups if group["params"]]

    def begin(self, run: TrainingRun) -> None:
        """Remember the run; online teachers get a criterion."""
        self.run = run

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        """Detection loss plus the terms, each under its own name."""
        assert self.run is not None
        for lesson in self.lessons:
            lesson.listen(model, self.run.average)
            if lesson.spec.online:
                lesson.train_teacher(self.run.arguments)
        soft = self.settings.soft_targets
        assigner = SoftAssigner.install(criterion, *soft) if soft is not None else None
        self.criterion = DistillationCriterion(
            criterion, model, self.lessons, self.terms, self.settings, assigner
        )
        return self.criterion

    def start_epoch(self, epoch: int) -> None:
        """What counts in this epoch, and whether gradients are measured at its first batch."""
        assert self.criterion is not None
        for lesson in self.lessons:
            lesson.start_epoch(epoch)
        self.criterion.plan = self._plan(epoch)
        self.criterion.measuring = self._measures(epoch)

    def _plan(self, epoch: int) -> EpochPlan:
        assert self.run is not None
        return self.settings.plan(self.terms, epoch, self.run.epochs, self.run.plain_from)

    def _measures(self, epoch: int) -> bool:
        """At the start, wherever other losses begin to count, and now and then in between."""
        assert self.run is not None
        if epoch == 0 or self._plan(epoch).counting != self._plan(epoch - 1).counting:
            return True
        batches = self.run.batches
        return epoch * batches // MEASURED_EVERY > (epoch - 1) * batches // MEASURED_EVERY

    def loss_names(self) -> list[str]:
        """One a term, and what online teachers learn."""
        online = any(teacher.online for teacher in self.teachers)
        names = [term.loss_name for term in self.terms]
        return names + ([TEACHER_LOSS, MUTUAL_LOSS] if online else [])

    def curves(self) -> dict[str, float]:
        """Each loss' share of the gradient's norm, as last measured."""
        if self.criterion is not None and self.criterion.shares:
            self._shares = self.criterion.shares
        return {f"gradient/{name}": share for name, share in self._shares.items()}

    def learning_rate(self, epoch: int) -> float | None:
        """That of the phase, where it has one."""
        phase = phase_at(self.settings.phases, epoch)
        return phase.lr if phase is not None else None

    def counts(self, epoch: int) -> bool:
        """Whether the branch that is validated learns in this epoch.

        Features alone leave the head behind; outputs alone leave the one-to-one branch of an
        end-to-end head behind.
        """
        phase = phase_at(self.settings.phases, epoch)
        if phase is None or "labels" in phase.learn:
            return True
        return "outputs" in phase.learn and not self._end_to_end

    def largest_norm(self) -> float | None:
        """As the recipe says."""
        return self.settings.clip

    def close(self) -> None:
        """Take all hooks off, and let go of the training."""
        for lesson in self.lessons:
            lesson.close()
        self._shares = {k.removeprefix("gradient/"): v for k, v in self.curves().items()}
        self.criterion = self.run = None

    def state_dict(self) -> dict[str, Any]:
        """Weights of bridges and online teachers, and the last gradient shares."""
        return {
            "lessons": [lesson.state_dict() for lesson in self.lessons],
            "shares": {key.removeprefix("gradient/"): v for key, v in self.curves().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back where they were."""
        for lesson, saved in zip(self.lessons, state["lessons"], strict=True):
            lesson.load_state_dict(saved)
        self._shares = dict(state["shares"])


def _require_same_cells(student: nn.Module, teacher: nn.Module) -> None:
    ours, theirs = (sorted(neck_layers(model)) for model in (student, teacher))
    if ours != theirs:
        raise CompressError(
            f"distill: `soft_targets` reads the teacher's scores cell by cell, but its strides are "
            f"{theirs}, the student's {ours}. Leave it out, or take a teacher of the same kind."
        )
