"""Rules between stages: order, names, references, and what the recipe must name for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_texts import GOOD, edited, faults, load

HEAD = "version: 1\nmodel: base.pt\ndata: set.yaml\nstages:\n"
PRUNE = "  - stage: prune\n    target: {macs: 0.5}\n"
TUNE = "  - stage: finetune\n    train: {epochs: 1}\n"
QAT = "  - stage: qat\n    train: {epochs: 1}\n"
PTQ = "  - stage: ptq\n"
TRAIN = "  - stage: train\n    train: {epochs: 1}\n"
EXPORT = "  - stage: export\n"
BENCH = "  - stage: bench\n"
CWD = "    distill: {losses: [{kind: cwd}]}\n"

SENSITIVITY = "  - stage: sensitivity\n"
SPARSE = TUNE + "    sparsity: {kind: bn_scale, weight: 0.01}\n"
RECOVER = "    steps: 2\n    recover: {train: {epochs: 1}, distill: {losses: [{kind: cwd}]}}\n"
BACK_OFF = "    accept: {map50: {max_drop: 0.1}, back_off: {tries: 2}}\n"

BAD = {
    "sensitivity after qat": (QAT + SENSITIVITY, "7:5", "sensitivity cannot follow qat (line 5)"),
    "train after sensitivity": (SENSITIVITY + TRAIN, "6:5", "train cannot follow sensitivity"),
    "sparsity that nothing uses": (PRUNE + SPARSE, "9:5", "no prune stage comes after it"),
    "recovery without a teacher": (PRUNE + RECOVER, "8:35", "the recipe has no `teacher:`"),
    "recovery with an unknown teacher": (
        PRUNE + RECOVER.replace("{losses", "{teachers: [bse], losses"),
        "8:56",
        "no stage is named 'bse'; did you mean 'base'?",
    ),
    "back-off without a prune": (TUNE + BACK_OFF, "7:48", "there is no prune stage before it"),
    "back-off to a later prune": (TUNE + BACK_OFF + PRUNE, "7:48", "there is no prune stage"),
    "back-off to no stage": (
        PRUNE + TUNE + BACK_OFF.replace("{tries", "{stage: prun, tries"),
        "9:56",
        "no prune stage before it is named 'prun'; did you mean 'prune'?",
    ),
    "back-off to another kind": (
        PRUNE + TUNE + BACK_OFF.replace("{tries", "{stage: base, tries"),
        "9:56",
        "no prune stage before it is named 'base'",
    ),
    "back-off without a gate": (
        PRUNE + TUNE + "    accept: {back_off: {}}\n",
        "9:24",
        "nothing says when to prune less: give a `map50_95:` or `map50:` gate",
    ),
    "prune after qat": (QAT + PRUNE, "7:5", "prune cannot follow qat (line 5)"),
    "finetune after ptq": (PTQ + TUNE, "6:5", "finetune cannot follow ptq (line 5)"),
    "quantized twice": (PTQ + QAT, "6:5", "qat cannot follow ptq (line 5)"),
    "train after prune": (PRUNE + TRAIN, "7:5", "train cannot follow prune (line 5)"),
    "far before": (QAT + EXPORT + PRUNE, "8:5", "prune cannot follow qat (line 5)"),
    "bench before export": (PRUNE + BENCH + EXPORT, "7:5", "bench needs an export stage before it"),
    "export before base": (EXPORT + TRAIN, "5:5", "export needs a checkpoint; move the base's"),
    "same kind twice": (
        PRUNE + PRUNE,
        "7:5",
        "named 'prune' already (line 5); give this one a `name:`",
    ),
    "same name": (PRUNE + TUNE + "    name: prune\n", "9:11", "named 'prune' already (line 5)"),
    "two bases": (TRAIN + TRAIN, "7:5", "named 'base' already (line 5); one is enough"),
    "base by another name": (TRAIN + "    name: first\n", "7:11", "leave out `name: first`"),
    "reserved name": (PRUNE + "    name: base\n", "7:11", "'base' is reserved"),
    "name of a graph": (PRUNE + "    name: int8-x\n", "7:11", "reserved for exported graphs"),
    "gate against nothing": (
        PRUNE + "    accept: {map50: {max_drop: 0.1, against: bse}}\n",
        "7:46",
        "no stage is named 'bse'; did you mean 'base'?",
    ),
    "gate against a later stage": (
        PRUNE + "    accept: {map50: {max_drop: 0.1, against: qat}}\n" + QAT,
        "7:46",
        "'qat' (line 8) is not an earlier stage",
    ),
    "gate against itself": (
        PRUNE + "    accept: {map50: {max_drop: 0.1, against: prune}}\n",
        "7:46",
        "'prune' (line 5) is not an earlier stage",
    ),
    "gate against an export": (
        EXPORT + PRUNE + "    accept: {map50: {max_drop: 0.1, against: export}}\n",
        "8:46",
        "'export' (line 5) gives no checkpoint",
    ),
    "bench against what is not exported": (
        EXPORT + PRUNE + BENCH + "    accept: {map50: {max_drop: 0.1, against: prune}}\n",
        "9:46",
        "'prune' (line 6) is not an earlier stage that can be referred to here; known here: base",
    ),
    "base against itself by default": (
        TRAIN + "    accept: {map50: {max_drop: 0.1}}\n",
        "7:14",
        "'base' (line 5) is not an earlier stage",
    ),
    "no teacher named": (TUNE + CWD, "7:5", "the recipe has no `teacher:`"),
    "unknown teacher": (
        PRUNE + TUNE + CWD.replace("{losses", "{teachers: [prun], losses"),
        "9:26",
        "no stage is named 'prun'; did you mean 'prune'? (a teacher is an earlier stage or a .pt",
    ),
    "teacher of another kind of file": (
        TUNE + CWD.replace("{losses", "{teachers: [a.onnx], losses"),
        "7:26",
        "a teacher is an earlier stage or a .pt file",
    ),
    "teacher stage without a teacher": (
        TRAIN + TRAIN + "    role: teacher\n",
        "7:5",
        "trains a teacher, but the recipe has no `teacher:`",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_a_broken_rule_is_told_at_the_stage(tmp_path: Path, case: tuple[str, str, str]) -> None:
    stages, place, words = case
    (line,) = faults(tmp_path, HEAD + stages)
    assert line.startswith(f"recipe.yaml:{place}: ")
    assert words in line


def test_rules_are_not_told_of_a_recipe_with_an_unknown_stage(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, HEAD + QAT + PRUNE.replace("prune", "prun") + BENCH)
    assert "unknown stage 'prun'" in line


@pytest.mark.parametrize("stages", [PRUNE, TRAIN + "    role: teacher\n"])
def test_a_model_yaml_must_be_trained(tmp_path: Path, stages: str) -> None:
    head = HEAD.replace("base.pt", "yolov8n.yaml\nteacher: big.pt")
    (line,) = faults(tmp_path, head + stages)
    assert line.startswith("recipe.yaml:2:8: model: a model yaml has no trained weights")
    load(tmp_path, head + TRAIN + PRUNE)


def test_a_teacher_yaml_must_be_trained_where_it_teaches(tmp_path: Path) -> None:
    head = HEAD.replace("base.pt", "base.pt\nteacher: yolov8s.yaml")
    (line,) = faults(tmp_path, head + TUNE + CWD)
    assert line.startswith("recipe.yaml:3:10: teacher: a model yaml has no trained weights")
    load(tmp_path, head + TUNE)
    load(tmp_path, head + TRAIN + "    role: teacher\n" + TUNE + CWD)


def test_good_orders(tmp_path: Path) -> None:
    for stages in (
        EXPORT + BENCH,
        TRAIN + PRUNE + TUNE + QAT + EXPORT + BENCH,
        PRUNE + TUNE + PRUNE + "    name: prune2\n" + PTQ + EXPORT + BENCH,
        PRUNE + EXPORT + BENCH + QAT + EXPORT + "    name: last\n",
        PRUNE + TUNE + CWD.replace("{losses", "{teachers: [base, other.pt], losses"),
        SENSITIVITY,
        SENSITIVITY + PRUNE + TUNE + BACK_OFF + EXPORT + BENCH + BACK_OFF,
        SPARSE + PRUNE + BACK_OFF + TUNE + "    name: last\n",
        PRUNE + RECOVER.replace("{losses", "{teachers: [base], losses"),
    ):
        load(tmp_path, HEAD + stages)


def test_a_recipe_without_training_takes_its_weights_as_they_are(tmp_path: Path) -> None:
    recipe = load(tmp_path).recipe
    assert [stage.name for stage in recipe.stages][:3] == ["base", "teacher", "prune"]
    base, teacher = recipe.stages[0], recipe.stages[1]
    assert base.stage == "train"
    assert teacher.stage == "train"
    assert (base.when, base.role, base.train) == ("never", "base", None)
    assert (teacher.when, teacher.role, teacher.train) == ("never", "teacher", None)


def test_a_teacher_that_nobody_names_is_not_put_in(tmp_path: Path) -> None:
    recipe = load(tmp_path, edited("teachers: [teacher]", "teachers: [base]")).recipe
    assert "teacher" not in [stage.name for stage in recipe.stages]


def test_a_teacher_that_helps_recover_is_put_in(tmp_path: Path) -> None:
    head = HEAD.replace("base.pt", "base.pt\nteacher: big.pt")
    stages = load(tmp_path, head + PRUNE + RECOVER).recipe.stages
    assert [stage.name for stage in stages] == ["base", "teacher", "prune"]


def test_stages_that_are_there_are_not_put_in_again(tmp_path: Path) -> None:
    own = TRAIN + TRAIN + "    role: teacher\n  - stage: prune\n"
    names = [
        stage.name for stage in load(tmp_path, edited("  - stage: prune\n", own)).recipe.stages
    ]
    assert names == ["base", "teacher", "prune", "finetune", "qat", "export", "bench"]


@pytest.mark.parametrize(("own", "align"), [("", 4), ("    align: 16\n", 16)])
def test_bench_checks_the_alignment_of_the_last_prune(tmp_path: Path, own: str, align: int) -> None:
    text = GOOD.replace("  - stage: bench\n", f"  - stage: bench\n{own}")
    bench = load(tmp_path, text).recipe.stages[-1]
    assert bench.stage == "bench"
    assert bench.align == align


def test_bench_checks_no_alignment_where_nothing_is_pruned(tmp_path: Path) -> None:
    bench = load(tmp_path, HEAD + EXPORT + BENCH).recipe.stages[-1]
    assert bench.stage == "bench"
    assert bench.align is None
