"""Who teaches a ``qat`` stage whose ``distill:`` section names nobody."""

from __future__ import annotations

from pathlib import Path

import yaml
from recipe_texts import load

from compress.pipeline.links import FromStage, link_steps
from compress.recipe.schema import QatStage, distill_of

HEAD = "version: 1\nmodel: base.pt\ndata: set.yaml\nstages:\n"
PRUNE = "  - stage: prune\n    target: {macs: 0.5}\n"
TUNE = "  - stage: finetune\n    name: recover\n    train: {epochs: 3}\n"
TEACHER = "  - stage: train\n    role: teacher\n    train: {epochs: 1}\n"
QAT = "  - stage: qat\n    train: {epochs: 2}\n"
DISTILL = "    distill: {losses: [{kind: cwd}]}\n"


def taught_by(folder: Path, text: str) -> list[str]:
    """The qat stage's teachers, and nothing but what the links say too."""
    recipe = load(folder, text).recipe
    (qat,) = (stage for stage in recipe.stages if isinstance(stage, QatStage))
    section = distill_of(qat)
    assert section is not None
    (step,) = (step for step in link_steps(recipe) if step.config == qat)
    names = [teacher.model for teacher in section[1].teachers]
    for index, name in enumerate(names):
        assert step.links[f"teacher.{index}"] == FromStage(name, "checkpoint")
    return names


def test_it_is_the_float_parent_whatever_that_is(tmp_path: Path) -> None:
    assert taught_by(tmp_path, HEAD + PRUNE + TUNE + QAT + DISTILL) == ["recover"]
    assert taught_by(tmp_path, HEAD + PRUNE + QAT + DISTILL) == ["prune"]
    assert taught_by(tmp_path, HEAD + QAT + DISTILL) == ["base"]


def test_no_teacher_stage_is_put_in_for_it(tmp_path: Path) -> None:
    recipe = load(tmp_path, HEAD + PRUNE + QAT + DISTILL).recipe
    assert [stage.name for stage in recipe.stages] == ["base", "prune", "qat"]


def test_the_recipes_teacher_comes_first(tmp_path: Path) -> None:
    with_teacher = HEAD.replace("data", "teacher: big.pt\ndata", 1)
    assert taught_by(tmp_path, with_teacher + PRUNE + QAT + DISTILL) == ["teacher"]
    assert taught_by(tmp_path, with_teacher + TEACHER + PRUNE + QAT + DISTILL) == ["teacher"]


def test_named_teachers_stay(tmp_path: Path) -> None:
    named = DISTILL.replace("{losses", "{teachers: [base], losses")
    assert taught_by(tmp_path, HEAD + PRUNE + TUNE + QAT + named) == ["base"]


def test_written_out_in_full_it_stays_the_same(tmp_path: Path) -> None:
    first = load(tmp_path, HEAD + PRUNE + TUNE + QAT + DISTILL).recipe
    full = yaml.safe_dump(first.model_dump(mode="json", exclude_none=True), sort_keys=False)
    assert load(tmp_path, full).recipe == first
