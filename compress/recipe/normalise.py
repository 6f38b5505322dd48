"""Write out what a recipe leaves unsaid.

The base, the teacher, who teaches a ``qat`` stage, the alignment that bench checks.
"""

from __future__ import annotations

from compress.pipeline.stage_table import STAGES
from compress.recipe.distillation import Teacher
from compress.recipe.schema import (
    BenchStage,
    PruneStage,
    QatStage,
    Recipe,
    Stage,
    TrainStage,
    distill_of,
)
from compress.recipe.tree import KeyPath


def normalise(recipe: Recipe) -> tuple[Recipe, tuple[KeyPath, ...]]:
    """The recipe in full, and for each of its stages the path of what it was written as.

    Normalising twice changes nothing more.
    """
    written = [*recipe.stages]
    paths: list[KeyPath] = [("stages", index) for index in range(len(written))]
    if not _has_role(recipe, "base"):
        written.insert(0, TrainStage(stage="train", name="base", when="never"))
        paths.insert(0, ("model",))
    if recipe.teacher is None:
        written = _taught_by_parents(written)
    stages = list(zip(paths, written, strict=True))
    if _name_teacher(written) and not _has_role(recipe, "teacher"):
        teacher = TrainStage(stage="train", name="teacher", role="teacher", when="never")
        base_index = [_role(stage) for _, stage in stages].index("base")
        taught = distill_of(stages[base_index][1]) is not None  # then it comes after its teacher
        stages.insert(base_index + (0 if taught else 1), (("teacher",), teacher))
    full = _with_alignment([stage for _, stage in stages])
    return recipe.model_copy(update={"stages": full}), tuple(path for path, _ in stages)


def _has_role(recipe: Recipe, role: str) -> bool:
    return any(_role(stage) == role for stage in recipe.stages)


def _role(stage: Stage) -> str:
    return stage.role if isinstance(stage, TrainStage) else ""


def _taught_by_parents(stages: list[Stage]) -> list[Stage]:
    """A ``qat`` stage that names no teachers learns from the float checkpoint it begins with."""
    parent = ""
    taught: list[Stage] = []
    for stage in stages:
        taught.append(_taught_by(parent, stage))
        if "checkpoint" in STAGES[stage.stage].gives and _role(stage) != "teacher":
            parent = stage.name
    return taught


def _taught_by(parent: str, stage: Stage) -> Stage:
    distill = stage.distill if isinstance(stage, QatStage) else None
    if distill is None or "teachers" in distill.model_fields_set:
        return stage
    taught = distill.model_copy(update={"teachers": [Teacher(model=parent)]})
    return stage.model_copy(update={"distill": taught})


def _name_teacher(stages: list[Stage]) -> bool:
    sections = filter(None, map(distill_of, stages))
    return any(t.model == "teacher" for _, distill in sections for t in distill.teachers)


def _with_alignment(stages: list[Stage]) -> list[Stage]:
    align: int | None = None
    aligned: list[Stage] = []
    for stage in stages:
        if isinstance(stage, PruneStage):
            align = stage.align
        if isinstance(stage, BenchStage) and stage.align is None:
            stage = stage.model_copy(update={"align": align})
        aligned.append(stage)
    return aligned
