"""From a recipe's ``distill:`` section to the extensions of a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import nn

from compress.distill.extension import Distillation
from compress.distill.schedule import Phase, Temperature, Weight
from compress.distill.settings import Settings
from compress.distill.teachers import TeacherSpec
from compress.distill.terms import TermSpec
from compress.models.checkpoint import load_checkpoint
from compress.models.class_map import class_index
from compress.models.trainer import TrainingExtension
from compress.models.unlabeled import UnlabeledImages
from compress.pipeline.contract import Artifact, Context
from compress.recipe.distillation import AVERAGE, Distill, Teacher
from compress.recipe.losses import DistillLoss, FeatureTerm, TemperatureSteps

_COMMON = {"kind", "temperature", *FeatureTerm.model_fields}


def distillation(
    config: Distill | None, inputs: Mapping[str, Artifact], context: Context
) -> list[TrainingExtension]:
    """The extensions that a ``distill:`` section asks for; none without one.

    Raises:
        CompressError: a teacher lacks classes that a loss needs.
    """
    if config is None:
        return []
    by_class = config.reads_outputs
    teachers = [
        _teacher(teacher, inputs.get(f"teacher.{index}"), by_class, context)
        for index, teacher in enumerate(config.teachers)
    ]
    extensions: list[TrainingExtension] = []
    if config.unlabeled is not None:
        folder = inputs["unlabeled"].path
        extra = UnlabeledImages(folder, config.unlabeled.batch, context.seed, context.workers)
        extensions.append(extra)
    extensions.append(Distillation(teachers, term_specs(config.losses), _settings(config)))
    return extensions


def term_specs(losses: list[DistillLoss]) -> list[TermSpec]:
    """The losses with names of their own: a kind's second one is ``<kind>_2``."""
    seen: Counter[str] = Counter()
    specs = []
    for loss in losses:
        seen[loss.kind] += 1
        name = loss.kind if seen[loss.kind] == 1 else f"{loss.kind}_{seen[loss.kind]}"
        specs.append(_term(loss, name))
    return specs


def _term(loss: DistillLoss, name: str) -> TermSpec:
    mosaic = loss.stop == "close_mosaic"
    temperature = getattr(loss, "temperature", None)
    at = getattr(loss, "at", "neck")
    teacher_at = getattr(loss, "teacher_at", None)
    return TermSpec(
        kind=loss.kind,
        name=name,
        weight=Weight(
            loss.weight,
            loss.schedule,
            loss.final,
            loss.start,
            loss.stop if isinstance(loss.stop, int) else None,
            mosaic,
        ),
        temperature=None if temperature is None else _temperature(temperature),
        levels=None if loss.levels is None else tuple(loss.levels),
        at=tuple(at) if isinstance(at, list) else at,
        teacher_at=None if teacher_at is None else tuple(teacher_at),
        options=loss.model_dump(exclude=_COMMON),
    )


def _temperature(steps: TemperatureSteps) -> Temperature:
    return Temperature(steps.start, steps.drop, steps.every, steps.least)


def _teacher(
    teacher: Teacher, file: Artifact | None, by_class: bool, context: Context
) -> TeacherSpec:
    if teacher.model == AVERAGE:
        return TeacherSpec(None, teacher.weight)
    assert file is not None
    model: nn.Module = load_checkpoint(file.path)
    what = f"teacher '{teacher.model}'"
    classes = class_index(model, context.data.names, what) if by_class else None
    return TeacherSpec(
        model, teacher.weight, None if classes is None else tuple(classes), teacher.online
    )


def _settings(config: Distill) -> Settings:
    soft, pseudo = config.soft_targets, config.unlabeled and config.unlabeled.pseudo_labels
    return Settings(
        gain=config.gain,
        labels=config.labels,
        clip=config.clip,
        cutmix=config.cutmix,
        difficulty=config.difficulty,
        soft_targets=None if soft is None else (soft.smoothing, soft.teacher),
        pseudo_labels=None if pseudo is None else (pseudo.confidence, pseudo.iou),
        phases=tuple(
            Phase(phase.epochs, frozenset(phase.learn), phase.lr) for phase in config.phases or ()
        ),
    )
