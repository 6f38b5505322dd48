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
    "unknown teacher in a mapping": (
        PRUNE
        + TUNE
        + "    distill: {teachers: [{weight: 2, model: prun}], losses: [{kind: cwd}]}\n",
        "9:45",
        "teachers[0].model: no stage is named 'prun'; did you mean 'prune'?",
    ),
    "an average by another name": (
        TUNE + CWD.replace("{losses", "{teachers: [ema, emma], losses"),
        "7:31",
        "teachers[1]: no stage is named 'emma'",
    ),
    "a stage named as the average": (PRUNE + "    name: ema\n", "7:11", "'ema' is reserved"),
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


def test_a_teacher_that_is_trained_later_is_told(tmp_path: Path) -> None:
    head = HEAD.replace("base.pt", "base.pt\nteacher: big.pt")
    own = "  - stage: train\n    role: teacher\n    train: {epochs: 1}\n"
    (line,) = faults(
        tmp_path, head + TRAIN + CWD.replace("{losses", "{teachers: [teacher], losses") + own
    )
    assert line == (
        "recipe.yaml:8:26: stages[0].distill.teachers[0]: the teacher is trained later (line 9); "
        "move it before 'base' (line 6)"
    )
    load(tmp_path, head + own + TRAIN + CWD)


def test_a_teacher_that_helps_train_the_base_is_put_before_it(tmp_path: Path) -> None:
    head = HEAD.replace("base.pt", "base.pt\nteacher: big.pt")
    stages = load(tmp_path, head + TRAIN + CWD).recipe.stages
    assert [stage.name for stage in stages] == ["teacher", "base"]


def test_an_average_needs_no_teacher(tmp_path: Path) -> None:
    stages = load(
        tmp_path, HEAD + TRAIN + CWD.replace("{losses", "{teachers: [ema], losses")
    ).recipe
    assert [stage.name for stage in stages.stages] == ["base"]


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


# (train, distill, line:column, words): what would never act; line 6 is train, line 7 distill
LESSONS = {
    "starts behind the end": (
        "epochs: 30",
        "losses: [{kind: cwd, start: 30}]",
        "7:43",
        "losses[0].start: the training has 30 epochs, counted from 0, so this loss would never act",
    ),
    "mosaic is never closed": (
        "epochs: 30, close_mosaic: 0",
        "losses: [{kind: cwd, stop: close_mosaic}]",
        "7:42",
        "losses[0].stop: `close_mosaic: 0` keeps mosaic on, so it would never stop",
    ),
    "there is no mosaic": (
        "epochs: 30, mosaic: 0.0",
        "losses: [{kind: cwd}, {kind: l2, stop: close_mosaic}]",
        "7:54",
        "losses[1].stop: `mosaic: 0` makes no mosaic, so it would never stop",
    ),
    "mosaic is closed before it begins": (
        "epochs: 30",
        "losses: [{kind: cwd, start: 20, stop: close_mosaic}]",
        "7:53",
        "mosaic is off from epoch 20 on (`close_mosaic: 10` of 30 epochs)",
    ),
    "a level that is no stride": (
        "epochs: 1",
        "losses: [{kind: cwd, levels: [8, 12]}]",
        "7:48",
        "losses[0].levels[1]: 12 is no stride of a detector",
    ),
    "a level twice": (
        "epochs: 1",
        "losses: [{kind: cwd, levels: [8, 16, 8]}]",
        "7:52",
        "names 8 twice",
    ),
    "a head that nothing trains": (
        "epochs: 1",
        "labels: 0, losses: [{kind: cwd}, {kind: at}]",
        "7:23",
        "distill.labels: without labels",
    ),
    "a phase without its loss": (
        "epochs: 2",
        "losses: [{kind: l2}], phases: [{epochs: 1, learn: [features]}, {epochs: 1, learn: "
        "[outputs]}]",
        "7:66",
        "phases[0].learn[0]: no loss is on features",
    ),
    "a phase without labels": (
        "epochs: 1",
        "labels: 0.0, losses: [{kind: l2}], phases: [{epochs: 1, learn: [outputs, labels]}]",
        "7:88",
        "learn[1]: `labels: 0` is set",
    ),
    "a phase that names a source twice": (
        "epochs: 1",
        "losses: [{kind: l2}], phases: [{epochs: 1, learn: [outputs, outputs]}]",
        "7:75",
        "names 'outputs' twice",
    ),
    "a loss without a phase": (
        "epochs: 1",
        "losses: [{kind: l2}, {kind: cwd}], phases: [{epochs: 1, learn: [outputs, labels]}]",
        "7:43",
        "losses[1].kind: no phase learns from features, so this loss would never act",
    ),
}


@pytest.mark.parametrize("case", LESSONS.values(), ids=LESSONS.keys())
def test_a_lesson_that_would_never_act_is_told(
    tmp_path: Path, case: tuple[str, str, str, str]
) -> None:
    train, distill, place, words = case
    stage = f"  - stage: finetune\n    train: {{{train}}}\n"
    stage += f"    distill: {{{distill}, teachers: [base]}}\n"
    (line,) = faults(tmp_path, HEAD + stage)
    assert line.startswith(f"recipe.yaml:{place}: stages[0].distill.")
    assert words in line


def test_lessons_of_recovery_are_looked_at_too(tmp_path: Path) -> None:
    recover = RECOVER.replace(
        "{losses: [{kind: cwd}]}", "{teachers: [base], losses: [{kind: cwd, start: 1}]}"
    )
    (line,) = faults(tmp_path, HEAD + PRUNE + recover)
    assert "recover.distill.losses[0].start: the training has 1 epochs" in line


def test_good_lessons(tmp_path: Path) -> None:
    train = "  - stage: finetune\n    train: {epochs: 30, close_mosaic: 5}\n    distill:\n"
    losses = (
        "      teachers: [ema, base]\n      losses:\n        - {kind: cwd, stop: close_mosaic}\n"
    )
    late = "        - {kind: l2, start: 24, stop: close_mosaic, levels: [4, 64]}\n"
    phases = "      phases: [{epochs: 10, learn: [features]}, {epochs: 20, learn: [outputs]}]\n"
    load(tmp_path, HEAD + train + losses + late + phases)
