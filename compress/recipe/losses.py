"""Losses that a ``distill:`` section may name, with every default. No torch in here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from compress.recipe.sections import Strict, distinct


def _temperature(value: Any) -> Any:
    return {"start": value} if isinstance(value, (int, float)) else value


class TemperatureSteps(Strict):
    """A temperature that falls by ``drop`` every ``every`` epochs, never below ``least``."""

    start: float = Field(gt=0, le=100)
    drop: float = Field(default=0.0, ge=0)
    every: int = Field(default=10, ge=1)
    least: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _falls(self) -> TemperatureSteps:
        if self.drop and self.least > self.start:
            raise ValueError("`least` is above `start`")
        return self


Temperature = Annotated[TemperatureSteps, BeforeValidator(_temperature)]


def _layers(value: Any) -> Any:
    """One layer may stand without brackets."""
    one = isinstance(value, (int, str)) and value not in ("neck", "backbone")
    return [value] if one and not isinstance(value, bool) else value


def steady(temperature: float) -> TemperatureSteps:
    """A temperature that stays."""
    return TemperatureSteps(start=temperature)


class LossTerm(Strict):
    """What all losses have.

    ``weight`` goes from its value to ``weight * final`` by ``schedule`` over the epochs from
    ``start`` to ``stop`` (counted from 0; ``stop`` is the first epoch without the loss,
    ``close_mosaic`` the first one without mosaic). ``levels`` are the strides that it looks at.
    """

    weight: float = Field(default=1.0, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final: float = Field(default=0.0, ge=0, description="share of the weight left at the end")
    start: int = Field(default=0, ge=0)
    stop: Union[Annotated[int, Field(ge=1)], Literal["close_mosaic"], None] = None
    levels: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _final_needs_a_schedule(self) -> LossTerm:
        if self.schedule == "constant" and self.final:
            raise ValueError(
                "`final` means nothing with `schedule: constant`; give linear or cosine"
            )
        return self

    @model_validator(mode="after")
    def _stops_after_start(self) -> LossTerm:
        if isinstance(self.stop, int) and self.stop <= self.start:
            raise ValueError(f"`stop` ({self.stop}) must come after `start` ({self.start})")
        return self


class FeatureTerm(LossTerm):
    """A loss on feature maps: ``neck`` (what feeds the head), ``backbone``, or layers.

    Layers are module names or numbers; ``teacher_at`` names the teacher's, where they differ.
    """

    at: Annotated[
        Union[
            Literal["neck", "backbone"], Annotated[list[Union[int, str]], AfterValidator(distinct)]
        ],
        BeforeValidator(_layers),
    ] = "neck"
    teacher_at: Annotated[list[Union[int, str]] | None, BeforeValidator(_layers)] = None

    @model_validator(mode="after")
    def _pairs(self) -> FeatureTerm:
        if isinstance(self.at, list) and not self.at:
            raise ValueError("`at` names no layer")
        if self.teacher_at is not None and (
            not isinstance(self.at, list) or len(self.at) != len(self.teacher_at)
        ):
            raise ValueError("`teacher_at` needs an `at:` list with as many layers")
        return self


class OutputTerm(LossTerm):
    """A loss on what the head predicts, before decoding."""


class CwdLoss(FeatureTerm):
    """Channel-wise distillation (Shu et al., 2021)."""

    kind: Literal["cwd"]
    temperature: Temperature = steady(1.0)


class MimicLoss(FeatureTerm):
    """Mean squared difference (Li et al., Mimicking very efficient networks, 2017)."""

    kind: Literal["mimic"]


class MgdLoss(FeatureTerm):
    """Masked generative distillation (Yang et al., 2022); ``masked`` is the share hidden."""

    kind: Literal["mgd"]
    masked: float = Field(default=0.65, ge=0, lt=1)


class PkdLoss(FeatureTerm):
    """Pearson correlation of features (Cao et al., PKD, 2022)."""

    kind: Literal["pkd"]


class FgdLoss(FeatureTerm):
    """Focal and global distillation (Yang et al., 2022); shares of its four parts."""

    kind: Literal["fgd"]
    temperature: Temperature = steady(0.5)
    foreground: float = Field(default=1.0, ge=0)
    background: float = Field(default=0.5, ge=0)
    attention: float = Field(default=1.0, ge=0)
    relation: float = Field(default=0.005, ge=0)


class AtLoss(FeatureTerm):
    """Attention transfer (Zagoruyko and Komodakis, 2017): maps of energy, no projector."""

    kind: Literal["at"]


class AttentionLoss(FeatureTerm):
    """Squared difference, weighted most where student and teacher differ most."""

    kind: Literal["attention"]


class L1Loss(OutputTerm):
    """Absolute difference of class and box logits, weighted by the teacher's score."""

    kind: Literal["l1"]


class L2Loss(OutputTerm):
    """Squared difference of class and box logits, weighted by the teacher's score."""

    kind: Literal["l2"]


class KlLoss(OutputTerm):
    """KL of the softmax over classes (Hinton et al., 2015)."""

    kind: Literal["kl"]
    temperature: Temperature = steady(3.0)


class BceLoss(OutputTerm):
    """Binary KL of each class: fits detectors that are trained with sigmoids."""

    kind: Literal["bce"]
    temperature: Temperature = steady(1.0)


class BckdLoss(OutputTerm):
    """Bridging cross-task protocol inconsistency (Yang et al., BCKD, 2023).

    ``boxes`` weighs its IoU part against its class part.
    """

    kind: Literal["bckd"]
    beta: float = Field(default=1.0, ge=0)
    boxes: float = Field(default=4.0, ge=0)


class LdLoss(OutputTerm):
    """Localization distillation (Zheng et al., 2022): KL over distance bins."""

    kind: Literal["ld"]
    temperature: Temperature = steady(10.0)


class ObjectnessLoss(OutputTerm):
    """Dense loss scaled by the teacher's objectness (Mehta and Ozturk, 2018).

    ``feature_nms`` keeps only the teacher's best cell of each 3x3 neighbourhood.
    """

    kind: Literal["objectness"]
    classes: Literal["l2", "kl", "bce"] = "l2"
    temperature: Temperature = steady(1.0)
    feature_nms: bool = False


class FocalLoss(OutputTerm):
    """Quality focal loss on the teacher's scores (Li et al., GFL, 2020)."""

    kind: Literal["focal"]
    gamma: float = Field(default=2.0, ge=0)
    alpha: float = Field(default=0.25, gt=0, lt=1)


class CiouLoss(OutputTerm):
    """1 - CIoU of the boxes, weighted by the teacher's score."""

    kind: Literal["ciou"]


class CrossKdLoss(OutputTerm):
    """The student's head features through the teacher's last layers (Wang et al., CrossKD, 2024).

    ``boxes`` weighs its box part against its class part.
    """

    kind: Literal["crosskd"]
    boxes: float = Field(default=1.0, ge=0)


class MasksLoss(OutputTerm):
    """Mask coefficients, weighted by the teacher's score, and mask prototypes."""

    kind: Literal["masks"]


class KeypointsLoss(OutputTerm):
    """Places and visibilities of keypoints, weighted by the teacher's score."""

    kind: Literal["keypoints"]


class AngleLoss(OutputTerm):
    """Angles of oriented boxes, weighted by the teacher's score."""

    kind: Literal["angle"]


DistillLoss = Annotated[
    Union[
        CwdLoss,
        MimicLoss,
        MgdLoss,
        PkdLoss,
        FgdLoss,
        AtLoss,
        AttentionLoss,
        L1Loss,
        L2Loss,
        KlLoss,
        BceLoss,
        BckdLoss,
        LdLoss,
        ObjectnessLoss,
        FocalLoss,
        CiouLoss,
        CrossKdLoss,
        MasksLoss,
        KeypointsLoss,
        AngleLoss,
    ],
    Field(discriminator="kind"),
]
