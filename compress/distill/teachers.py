"""One teacher beside the student: how it is run, what is read from it, which terms it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.distill.build import build_term
from compress.distill.taps import Taps
from compress.distill.terms import Mix, Seen, Term, TermSpec
from compress.models.exportable import fused_copy
from compress.models.inspect import is_end_to_end
from compress.models.raw_outputs import RawOutputs, raw_outputs


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher: ``model``, or None for the moving average of the student.

    ``weight`` is relative to the other teachers'. ``classes``: for each class of the student the
    teacher's channel; None where the lists are equal. ``online``: it is trained too.
    """

    model: nn.Module | None
    weight: float = 1.0
    classes: tuple[int, ...] | None = None
    online: bool = False


class Lesson:
    """A teacher with its terms, and the hooks on both nets while a training runs."""

    def __init__(
        self,
        teacher: TeacherSpec,
        terms: Sequence[TermSpec],
        student: nn.Module,
        imgsz: int,
        device: torch.device,
    ) -> None:
        self.spec = teacher
        self.model = _runnable(teacher, device)
        shown = student if self.model is None else self.model
        self.terms: list[Term] = [
            build_term(spec, student, shown, teacher.classes, imgsz, device).to(device)
            for spec in terms
        ]
        self.modules = nn.ModuleList(self.terms)
        self.index = None
        if teacher.classes is not None:
            self.index = torch.tensor(teacher.classes, device=device)
        self.criterion: Callable[..., Any] | None = None
        self._taps: list[Taps] = []
        self._updates = 0

    def listen(self, student: nn.Module, average: Callable[[], nn.Module]) -> None:
        """Hook the nets that are really run; an average exists only once a training is set up."""
        self.close()
        if self.model is None:
            self.model = average()
            for term in self.terms:
                term.follow(self.model)
        self._taps = [
            Taps(student, [name for term in self.terms for name in term.student_layers]),
            Taps(self.model, [name for term in self.terms for name in term.teacher_layers]),
        ]

    def train_teacher(self, arguments: Any) -> None:
        """Make an online teacher ready to learn from labels."""
        assert self.model is not None
        self.model.args = arguments
        build: Callable[[], Callable[..., Any]] = self.model.init_criterion  # type: ignore[assignment]
        self.criterion = build()

    def teacher_parameters(self) -> list[nn.Parameter]:
        """Those of an online teacher, which is trained."""
        if not self.spec.online or self.model is None:
            return []
        return list(self.model.parameters())

    def state_dict(self) -> dict[str, Any]:
        """What is trained here, for resume."""
        state = {"bridges": self.modules.state_dict()}
        if self.spec.online and self.model is not None:
            state["teacher"] = self.model.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of ``state_dict``."""
        self.modules.load_state_dict(state["bridges"])
        if self.spec.online and self.model is not None:
            self.model.load_state_dict(state["teacher"])

    def predict(self, images: Tensor) -> Any:
        """What the teacher says of ``images`` (N, 3, H, W), raw, as its head gives it."""
        assert self.model is not None
        if self.spec.online:
            return self.model.train()(images)
        with torch.no_grad():
            return self.model.eval()(images)

    def outputs(self, predictions: Any) -> RawOutputs:
        """Raw predictions with the student's classes."""
        assert self.model is not None
        found = raw_outputs(self.model, predictions)
        return found if self.index is None else found.of_classes(self.index)

    def seen(
        self,
        student: RawOutputs,
        teacher: RawOutputs,
        boxes: Tensor,
        labelled: int,
        mix: Mix | None,
    ) -> Seen:
        """What terms compare, once both nets have seen the batch."""
        ours, theirs = (taps.features for taps in self._taps)
        return Seen(student, teacher.detached(), ours, theirs, boxes, labelled, mix)

    def start_epoch(self, epoch: int) -> None:
        """Forget maps of a batch that did not fit into memory; move an online teacher's loss on."""
        for taps in self._taps:
            taps.features.clear()
        update = getattr(self.criterion, "update", None)
        while update is not None and self._updates < epoch:  # heads whose loss weights move
            update()
            self._updates += 1

    def close(self) -> None:
        """Take the hooks off."""
        for taps in self._taps:
            taps.close()
        self._taps = []


def _runnable(teacher: TeacherSpec, device: torch.device) -> nn.Module | None:
    """The teacher as it is run: frozen and folded, or whole and trainable."""
    if teacher.model is None:
        return None
    if teacher.online:
        return teacher.model.to(device).train().requires_grad_(True)
    if is_end_to_end(teacher.model):  # folding would drop the branch that is distilled
        return teacher.model.to(device).eval().requires_grad_(False)
    return fused_copy(teacher.model).to(device).requires_grad_(False)
