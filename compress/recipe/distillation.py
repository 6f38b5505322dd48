"""The ``distill:`` section of a recipe: who teaches what, when, and on which images. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from compress.recipe.losses import DistillLoss, FeatureTerm, OutputTerm
from compress.recipe.sections import Strict

AVERAGE = "ema"  # as a teacher: the moving average of the student itself
Learn = Literal["features", "outputs", "labels"]


class Teacher(Strict):
    """One teacher: ``teacher``, ``base``, an earlier stage, a ``.pt`` file, or ``ema``.

    ``ema`` is the moving average of the student itself. An ``online`` teacher is trained too, by
    the labels and by what the student says.
    """

    model: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0)
    online: bool = False

    @model_validator(mode="after")
    def _average_is_not_trained(self) -> Teacher:
        if self.online and self.model == AVERAGE:
            raise ValueError(f"`{AVERAGE}` follows the student: it cannot be `online`")
        return self


def _teachers(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    return [{"model": item} if isinstance(item, str) else item for item in value]


class Phase(Strict):
    """A part of the run that learns from some sources only, at a learning rate of its own."""

    epochs: int = Field(ge=1)
    learn: list[Learn] = Field(min_length=1)
    lr: float | None = Field(default=None, gt=0, le=1)


class PseudoLabels(Strict):
    """The teacher's detections on unlabeled images, taken as ground truth."""

    confidence: float = Field(default=0.5, gt=0, lt=1)
    iou: float = Field(default=0.6, gt=0, lt=1)


class Unlabeled(Strict):
    """A folder of images without labels. Each batch gets ``batch`` of them beside the labelled."""

    images: str = Field(min_length=1)
    batch: int | None = Field(default=None, ge=1, description="by default the training's batch")
    pseudo_labels: PseudoLabels | None = None


class SoftTargets(Strict):
    """Class targets of objects: smoothed, and mixed with what the teacher scores there."""

    smoothing: float = Field(default=0.1, ge=0, lt=1)
    teacher: float = Field(default=0.0, ge=0, le=1)


class Distill(Strict):
    """Who teaches what."""

    teachers: Annotated[list[Teacher], BeforeValidator(_teachers)] = Field(
        default=[Teacher(model="teacher")], min_length=1
    )
    losses: list[DistillLoss] = Field(min_length=1)
    gain: float = Field(default=1.0, gt=0, description="multiplies the weight of every loss")
    labels: float = Field(default=1.0, ge=0, description="weight of the ground truth's loss")
    clip: float | None = Field(default=None, gt=0, description="largest gradient norm")
    cutmix: float = Field(default=0.0, ge=0, le=1, description="share of batches with CutMix")
    difficulty: bool = Field(default=False, description="hard images count more")
    soft_targets: SoftTargets | None = None
    unlabeled: Unlabeled | None = None
    phases: list[Phase] | None = Field(default=None, min_length=1)

    @property
    def reads_outputs(self) -> bool:
        """Whether anything reads what the teachers predict, and not only their features."""
        return (
            any(isinstance(loss, OutputTerm) for loss in self.losses)
            or any(teacher.online for teacher in self.teachers)
            or (self.unlabeled is not None and self.unlabeled.pseudo_labels is not None)
            or self.soft_targets is not None
            or self.difficulty
        )

    @model_validator(mode="after")
    def _each_teacher_once(self) -> Distill:
        names = [teacher.model for teacher in self.teachers]
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise ValueError(f"teachers: names {twice[0]!r} twice")
        return self

    @model_validator(mode="after")
    def _mixes_something(self) -> Distill:
        mixed = [t for t in self.losses if isinstance(t, FeatureTerm) and t.kind != "fgd"]
        if self.cutmix and not mixed:
            raise ValueError(
                "cutmix: no loss here compares maps that can be mixed (fgd needs them whole)"
            )
        return self

    @model_validator(mode="after")
    def _targets_count(self) -> Distill:
        pseudo = self.unlabeled is not None and self.unlabeled.pseudo_labels is not None
        if not self.labels and (pseudo or self.soft_targets is not None):
            raise ValueError("`labels: 0` leaves out what soft_targets and pseudo_labels change")
        return self

    @model_validator(mode="after")
    def _phases_teach(self) -> Distill:
        wanted: Sequence[Learn] = [s for phase in self.phases or () for s in phase.learn]
        if self.phases and not {"outputs", "labels"}.intersection(wanted):
            raise ValueError("phases: none learns outputs or labels, so no epoch could be chosen")
        return self
