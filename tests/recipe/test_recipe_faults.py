"""Every fault of a recipe has its place and says what to do; all come at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_texts import GOOD, edited, faults, load

TRAIN = "train: {epochs: 30, lr0: 2e-3, mosaic: 0.5}"

# (edit of the good recipe, line:column, words that the message must hold)
BAD = {
    "unknown key": (
        "align: 4",
        "algin: 4",
        "9:5",
        "stages[0].algin: unknown key; did you mean 'align'",
    ),
    "unknown key at the top": (
        "data:",
        "dta: x\ndata:",
        "5:1",
        "dta: unknown key; did you mean 'data'",
    ),
    "far from any key": ("align: 4", "zzz: 4", "9:5", "known here: name, stage, importance"),
    "key of another stage": ("align: 4", "when: x", "9:5", "stages[0].when: unknown key; known"),
    "key inside a list": (
        "temperature: 2.0",
        "temprature: 2.0",
        "15:23",
        "losses[0].temprature: unknown key; did you mean 'temperature'",
    ),
    "unknown stage": (
        "- stage: export",
        "- stage: exprt",
        "21:12",
        "unknown stage 'exprt'; did you mean 'export'? (one of train, sensitivity",
    ),
    "no stage kind": (
        "- stage: export",
        "- name: x",
        "21:5",
        "stages[3].stage: missing; one of train",
    ),
    "stage is text": ("- stage: export", "- export", "21:5", "stages[3]: must be a mapping"),
    "missing key": ("    target: {macs: 0.4}\n", "", "7:5", "stages[0].target: missing"),
    "missing key in a section": (
        TRAIN,
        "train: {lr0: 0.1}",
        "11:5",
        "stages[1].train.epochs: missing",
    ),
    "missing at the top": ("model: base.pt\n", "", "2:1", "model: missing"),
    "wrong version": ("version: 1", "version: 2", "2:10", "version: must be 1, got 2"),
    "text for a number": (
        "epochs: 10",
        "epochs: ten",
        "18:21",
        "must be a whole number, got 'ten'",
    ),
    "quoted number": ("epochs: 10", "epochs: '10'", "18:21", "must be a whole number, got '10'"),
    "truth for a number": (
        "epochs: 10",
        "epochs: yes",
        "18:21",
        "must be a whole number, got true",
    ),
    "share for a number": ("align: 4", "align: 4.5", "9:12", "must be a whole number, got 4.5"),
    "number for text": ("data: set.yaml", "data: 3", "5:7", "data: must be text, got 3"),
    "empty text": ("data: set.yaml", "data: ''", "5:7", "data: must not be empty"),
    "nothing for text": ("data: set.yaml", "data:", "5:6", "data: must be text, got nothing"),
    "text for a list": (
        "teachers: [teacher]",
        "teachers: base",
        "13:17",
        "must be a list, got 'base'",
    ),
    "empty list": ("teachers: [teacher]", "teachers: []", "13:17", "at least one entry"),
    "nothing for a section": (
        "accept: {map50: {max_drop: 0.02, against: finetune}}",
        "accept:",
        "20:12",
        "must be a mapping",
    ),
    "above its range": ("macs: 0.4", "macs: 1.5", "8:20", "must be less than 1, got 1.5"),
    "below its range": ("align: 4", "align: 0", "9:12", "must be at least 1, got 0"),
    "not finite": ("macs: 0.4", "macs: .nan", "8:20", "finite number"),
    "no multiple of the stride": (
        "data: set.yaml",
        "data: set.yaml\nimgsz: 333",
        "6:8",
        "multiple of 32, got 333",
    ),
    "unknown choice": (
        "align: 4",
        "importance: lmap",
        "9:17",
        "'hessian' or 'random', got 'lmap'; did you mean 'lamp'",
    ),
    "no such device": (
        "data: set.yaml",
        "data: set.yaml\ndevice: gpu",
        "6:9",
        "'cpu', or the number of one GPU",
    ),
    "duplicate key": (
        "align: 4",
        "align: 4\n    align: 8",
        "10:5",
        "stages[0].align: duplicate key; it is given first at line 9",
    ),
    "listed twice": (
        "teachers: [teacher]",
        "teachers: [base, base]",
        "12:14",
        "stages[1].distill: teachers: names 'base' twice",
    ),
    "bad name": ("- stage: export", "- stage: export\n    name: My Export", "22:11", "a-z, 0-9"),
    "unknown training argument": (
        TRAIN,
        TRAIN.replace("mosaic", "mosiac"),
        "11:36",
        "did you mean 'mosaic'",
    ),
    "argument of the recipe": (
        TRAIN,
        TRAIN.replace("mosaic: 0.5", "imgsz: 640"),
        "11:36",
        "set it at the top of the recipe",
    ),
    "argument of the pipeline": (
        TRAIN,
        TRAIN.replace("mosaic: 0.5", "project: x"),
        "11:36",
        "--out",
    ),
    "argument of another stage": (
        TRAIN,
        TRAIN.replace("mosaic: 0.5", "quantize: 8"),
        "11:36",
        "stage: qat",
    ),
    "argument of a wrong type": (
        TRAIN,
        TRAIN.replace("mosaic: 0.5", "cos_lr: 1"),
        "11:44",
        "cos_lr: must be true or false, got 1",
    ),
    "argument out of range": (
        TRAIN,
        TRAIN.replace("0.5", "1.5"),
        "11:44",
        "mosaic: must be from 0 to 1",
    ),
    "argument that is empty": (
        TRAIN,
        TRAIN.replace("0.5", ""),
        "11:43",
        "mosaic: must be a number, not empty",
    ),
}

RECOVER = "recover: {train: {epochs: 1}}"
TUNE = "accept: {map50_95: {max_drop: 0.01}}"

# the same for the keys of pruning
BAD |= {
    "two targets": (
        "{macs: 0.4}",
        "{macs: 0.4, latency: 0.5}",
        "8:13",
        "exactly one of macs, params, latency, speedup; it names macs, latency",
    ),
    "no target": ("{macs: 0.4}", "{}", "8:13", "exactly one of macs, params, latency, speedup"),
    "target of another kind": ("macs: 0.4", "mac: 0.4", "8:14", "did you mean 'macs'"),
    "a speed-up that is none": ("macs: 0.4", "speedup: 1", "8:23", "must be greater than 1, got 1"),
    "no share": ("macs: 0.4", "params: 40", "8:22", "must be less than 1, got 40"),
    "unknown device to align for": (
        "align: 4",
        "align: nasa-1",
        "9:12",
        "apple-ane, axelera, got 'nasa-1'",
    ),
    "aligned too far": ("align: 4", "align: 128", "9:12", "must be at most 64, got 128"),
    "unknown scope": (
        "align: 4",
        "scope: locl",
        "9:12",
        "must be 'global' or 'local', got 'locl'; did you mean 'local'",
    ),
    "unknown rank": (
        "align: 4",
        "rank: cost",
        "9:11",
        "must be 'score' or 'score_per_cost', got 'cost'",
    ),
    "floors that are no mapping": ("align: 4", "min_channels: 8", "9:19", "must be a mapping"),
    "a floor below one": (
        "align: 4",
        "min_channels: {model.2.*: 0}",
        "9:31",
        "stages[0].min_channels.model.2.*: must be at least 1, got 0",
    ),
    "a floor that is no number": (
        "align: 4",
        "min_channels: {model.2.*: few}",
        "9:31",
        "must be a whole number, got 'few'",
    ),
    "steps without training": ("align: 4", "steps: 3", "7:5", "`steps` above 1 and a `recover:`"),
    "training without steps": ("align: 4", RECOVER, "7:5", "`steps` above 1 and a `recover:`"),
    "no step": ("align: 4", "steps: 0", "9:12", "must be at least 1, got 0"),
    "argument of recovery": (
        "align: 4",
        "steps: 2\n    " + RECOVER.replace("epochs: 1", "epochs: 1, mosiac: 1"),
        "10:34",
        "no such training argument; did you mean 'mosaic'",
    ),
    "unknown runtime": ("align: 4", "latency: {runtime: trt}", "9:24", "must be 'onnxruntime'"),
    "no thread": ("align: 4", "latency: {threads: 0}", "9:24", "must be at least 1, got 0"),
    "gradients of no batch": ("align: 4", "gradient_batches: 0", "9:23", "must be at least 1"),
    "fewer than no images": ("align: 4", "bn_images: -1", "9:16", "must be at least 0, got -1"),
    "a gate that is no choice": (
        "align: 4",
        "accept: {never_slower: 1}",
        "9:28",
        "stages[0].accept.never_slower: must be true or false, got 1",
    ),
    "a gate of another stage": (TUNE, "accept: {never_slower: true}", "16:14", "unknown key"),
    "outputs padded to nothing": (
        "- stage: export",
        "- stage: export\n    pad_outputs: 0",
        "22:18",
        "stages[3].pad_outputs: must be at least 1, got 0",
    ),
    "giving all back": (
        TUNE,
        "accept: {map50: {max_drop: 0.1}, back_off: {by: 1}}",
        "16:53",
        "stages[1].accept.back_off.by: must be less than 1, got 1",
    ),
    "no try": (
        TUNE,
        "accept: {map50: {max_drop: 0.1}, back_off: {tries: 0}}",
        "16:56",
        "must be at least 1, got 0",
    ),
}


CWD = "{kind: cwd, temperature: 2.0}"
TEACHERS = "teachers: [teacher]"

# the same for the keys of distillation; the losses begin at line 15
BAD |= {
    "unknown loss": (CWD, "{kind: cwdd}", "15:18", "unknown kind 'cwdd'; did you mean 'cwd'?"),
    "loss without a kind": (CWD, "{weight: 1.0}", "15:11", "losses[0].kind: missing; one of cwd"),
    "key of another loss": (CWD, "{kind: cwd, masked: 0.5}", "15:23", "masked: unknown key; known"),
    "a weight of nothing": (CWD, "{kind: l2, weight: 0}", "15:30", "must be greater than 0, got 0"),
    "a cold temperature": (
        "temperature: 2.0",
        "temperature: 0",
        "15:36",
        "temperature: must be gr",
    ),
    "a warming temperature": (
        "temperature: 2.0",
        "temperature: {start: 2, drop: 1, least: 3}",
        "15:36",
        "temperature: `least` is above `start`",
    ),
    "unknown key of a temperature": (
        "temperature: 2.0",
        "temperature: {start: 2, evry: 3}",
        "15:47",
        "temperature.evry: unknown key; did you mean 'every'",
    ),
    "a stop before the start": (
        CWD,
        "{kind: cwd, start: 4, stop: 4}",
        "15:11",
        "losses[0]: `stop` (4) must come after `start` (4)",
    ),
    "teachers without layers of their own": (
        CWD,
        "{kind: cwd, at: [4, 6], teacher_at: [4]}",
        "15:11",
        "`teacher_at` needs an `at:` list with as many layers",
    ),
    "a teacher of no weight": (
        TEACHERS,
        "teachers: [{model: base, weight: 0}]",
        "13:40",
        "teachers[0].weight: must be greater than 0, got 0",
    ),
    "a teacher without a model": (
        TEACHERS,
        "teachers: [{weight: 1.0}]",
        "13:18",
        "teachers[0].model: missing",
    ),
    "an average that is trained": (
        TEACHERS,
        "teachers: [{model: ema, online: true}]",
        "13:18",
        "`ema` follows the student: it cannot be `online`",
    ),
    "no images": (TEACHERS, "unlabeled: {batch: 4}", "13:7", "unlabeled.images: missing"),
    "sure of everything": (
        TEACHERS,
        "unlabeled: {images: x, pseudo_labels: {confidence: 1.0}}",
        "13:58",
        "confidence: must be less than 1",
    ),
    "no layers of one's own": (
        "data: set.yaml",
        "data: set.yaml\nmodules: ''",
        "6:10",
        "not be em",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_a_fault_is_told_at_its_place(tmp_path: Path, case: tuple[str, str, str, str]) -> None:
    old, new, place, words = case
    lines = faults(tmp_path, edited(old, new))
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"recipe.yaml:{place}: ")
    assert words in lines[0]


def test_all_faults_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        edited("align: 4", "algin: 4")
        .replace("epochs: 30", "epochs: 0, epochs: 1, imgsz: 3")
        .replace("against: finetune", "against: finetun")
        .replace("- stage: export\n", "- stage: prune\n    name: again\n    target: {macs: 0.5}\n")
    )
    places = [line.split(":")[1] for line in faults(tmp_path, text)]
    assert places == ["9", "11", "11", "11", "20", "21", "24"]


def test_a_fault_of_an_anchor_is_told_once(tmp_path: Path) -> None:
    lines = faults(tmp_path, edited("temperature: 2.0", "temperature: -2"))
    assert [line.partition(": ")[0] for line in lines] == ["recipe.yaml:15:36"]


def test_a_fault_of_one_use_of_an_anchor_is_told_there(tmp_path: Path) -> None:
    lines = faults(tmp_path, edited("train: {epochs: 10}", "train: *kd"))
    assert {line.partition(": ")[0] for line in lines} == {"recipe.yaml:18:12"}
    assert any("stages[2].train.epochs: missing" in line for line in lines)


def test_a_merged_section_is_told_where_it_is_merged(tmp_path: Path) -> None:
    text = edited("train: {epochs: 10}", "train: {<<: *kd, epochs: 10}")
    lines = faults(tmp_path, text)
    assert {line.partition(": ")[0] for line in lines} == {"recipe.yaml:18:17"}


@pytest.mark.parametrize(
    ("train", "words"),
    [("", "needs a `train:` section"), ("    when: never\n    train: {epochs: 1}\n", "never use")],
)
def test_a_train_stage_has_arguments_unless_it_never_trains(
    tmp_path: Path, train: str, words: str
) -> None:
    text = edited("  - stage: prune\n", f"  - stage: train\n{train}  - stage: prune\n")
    (line,) = faults(tmp_path, text)
    assert line.startswith("recipe.yaml:7:5: stages[0]: ")
    assert words in line


BEFORE_PRUNE = "  - stage: prune\n"


@pytest.mark.parametrize(
    ("stage", "place", "words"),
    [
        ("stage: sensitivity\n    share: 1", "8:12", "share: must be less than 1, got 1"),
        ("stage: sensitivity\n    images: 0", "8:13", "images: must be at least 1, got 0"),
        ("stage: sensitivity\n    target: {macs: 0.5}", "8:5", "target: unknown key"),
        (
            "stage: finetune\n    name: sparse\n    train: {epochs: 1}\n"
            "    sparsity: {kind: lasso, weight: 1}",
            "10:22",
            "sparsity.kind: must be 'bn_scale' or 'group_lasso', got 'lasso'",
        ),
        (
            "stage: finetune\n    name: sparse\n    train: {epochs: 1}\n"
            "    sparsity: {kind: bn_scale}",
            "10:5",
            "sparsity.weight: missing",
        ),
    ],
)
def test_a_fault_of_a_stage_before_pruning(
    tmp_path: Path, stage: str, place: str, words: str
) -> None:
    (line,) = faults(tmp_path, edited(BEFORE_PRUNE, f"  - {stage}\n{BEFORE_PRUNE}"))
    assert line.startswith(f"recipe.yaml:{place}: ")
    assert words in line


def test_the_good_recipe_is_good(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).name == "recipe"


def test_an_alignment_may_be_given_as_a_device(tmp_path: Path) -> None:
    recipe = load(tmp_path, edited("align: 4", "align: jetson-int8")).recipe
    assert recipe.stages[2].align == 32  # type: ignore[union-attr]


def test_a_gpu_may_be_given_as_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, ["device=0"]).recipe.device == "0"
