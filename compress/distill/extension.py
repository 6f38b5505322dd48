"""Distillation as an extension of a training: the detection loss plus what teachers say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.distill.taps import Taps, probe_widths
from compress.errors import CompressError
from compress.models.inspect import neck_layers
from compress.models.trainer import TrainingExtension

FeatureLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FeatureTerm:
    """One loss on the neck's features, summed over the levels. ``name`` shows in the curves."""

    name: str
    loss: FeatureLoss
    weight: float

    @property
    def loss_name(self) -> str:
        """The term's name among the losses."""
        return f"{self.name}_loss"


class _Pupil:
    """One teacher beside the student: matched layers, taps, projectors."""

    def __init__(self, student: nn.Module, teacher: nn.Module, imgsz: int, device: Any) -> None:
        self.teacher = teacher.to(device).eval().requires_grad_(False)
        ours, theirs = neck_layers(student), neck_layers(teacher)
        strides = sorted(ours.keys() & theirs.keys())
        if not strides:
            raise CompressError(
                f"distill: student and teacher share no stride (student {sorted(ours)}, teacher "
                f"{sorted(theirs)}). Choose a teacher of the same kind."
            )
        self.pairs = [(ours[stride], theirs[stride]) for stride in strides]
        inputs = probe_widths(student, [own for own, _ in self.pairs], imgsz, device)
        outputs = probe_widths(self.teacher, [its for _, its in self.pairs], imgsz, device)
        self.projectors = nn.ModuleList(
            _projector(inputs[own], outputs[its]) for own, its in self.pairs
        ).to(device)
        self.student_taps: Taps | None = None
        self.teacher_taps = Taps(self.teacher, [its for _, its in self.pairs])

    def listen(self, student: nn.Module) -> None:
        """Hook the student that is really trained."""
        self.student_taps = Taps(student, [own for own, _ in self.pairs])

    def compare(self, images: Tensor, loss: FeatureLoss) -> Tensor:
        """Sum of ``loss`` over the levels, once both nets have seen ``images``."""
        assert self.student_taps is not None
        ours, theirs = self.student_taps.features, self.teacher_taps.features
        with torch.autocast(images.device.type, enabled=False):
            return torch.stack(
                [
                    loss(projector(ours[own].float()), theirs[its].float())
                    for projector, (own, its) in zip(self.projectors, self.pairs, strict=True)
                ]
            ).sum()

    def close(self) -> None:
        self.teacher_taps.close()
        if self.student_taps is not None:
            self.student_taps.close()


def _projector(inputs: int, outputs: int) -> nn.Module:
    """A 1x1 convolution where widths differ."""
    return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)


class Distillation(TrainingExtension):
    """Adds feature losses of frozen teachers to the detection loss.

    Teachers stay in eval mode without gradients; projectors are trained with the student, saved for
    resume and never part of its checkpoint.
    """

    def __init__(self, teachers: Sequence[nn.Module], terms: Sequence[FeatureTerm]) -> None:
        """``teachers`` must predict the student's classes; ``terms`` apply to each of them."""
        self.teachers = list(teachers)
        self.terms = list(terms)
        self.pupils: list[_Pupil] = []

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        """Match layers and build projectors, before the optimizer is built."""
        self.pupils = [_Pupil(model, teacher, imgsz, device) for teacher in self.teachers]

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """The projectors, trained like any other weight but without decay."""
        parameters = [p for pupil in self.pupils for p in pupil.projectors.parameters()]
        group = {"params": parameters, "lr": lr, "weight_decay": 0.0, "param_group": "projector"}
        return [group] if parameters else []

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        """Detection loss plus the terms, each under its own name."""
        for pupil in self.pupils:
            pupil.listen(model)
        return _DistillationCriterion(criterion, self.pupils, self.terms)

    def loss_names(self) -> list[str]:
        """One a term."""
        return [term.loss_name for term in self.terms]

    def close(self) -> None:
        """Take all hooks off."""
        for pupil in self.pupils:
            pupil.close()

    def state_dict(self) -> dict[str, Any]:
        """The projectors' weights."""
        return {"projectors": [pupil.projectors.state_dict() for pupil in self.pupils]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the projectors back where they were."""
        for pupil, saved in zip(self.pupils, state["projectors"], strict=True):
            pupil.projectors.load_state_dict(saved)


class _DistillationCriterion:
    """Called by ultralytics in place of its loss. No module: nothing of it reaches a checkpoint."""

    def __init__(self, base: Any, pupils: list[_Pupil], terms: list[FeatureTerm]) -> None:
        self.base = base
        self.pupils = pupils
        self.terms = terms
        if hasattr(base, "update"):
            self.update = base.update

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, items = self.base(preds, batch)
        images = batch["img"]
        with torch.no_grad():
            for pupil in self.pupils:
                pupil.teacher(images)
        values = [
            term.weight * torch.stack([p.compare(images, term.loss) for p in self.pupils]).mean()
            for term in self.terms
        ]
        names = [term.loss_name for term in self.terms]
        items = {**items, **{k: v.detach() for k, v in zip(names, values, strict=True)}}
        # ultralytics' loss is a sum over the batch
        return torch.cat([loss, torch.stack(values) * images.shape[0]]), items
