"""Write out what a recipe leaves unsaid: the base, the teacher, the alignment that bench checks."""

from __future__ import annotations

from compress.recipe.schema import (
    BenchStage,
    PruneStage,
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
    stages: list[tuple[KeyPath, Stage]] = [
        (("stages", index), stage) for index, stage in enumerate(recipe.stages)
    ]
    if not _has_role(recipe, "base"):
        base = TrainStage(stage="train", name="base", when="never")
        stages.insert(0, (("model",), base))
    if _names_teacher(recipe) and not _has_role(recipe, "teacher"):
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


def _names_teacher(recipe: Recipe) -> bool:
    sections = filter(None, map(distill_of, recipe.stages))
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
