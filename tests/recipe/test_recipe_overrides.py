"""``key=value``: what it changes, what it leaves alone, and how its faults read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_texts import GOOD, edited, faults, load

from compress.recipe import LoadedRecipe


def changed(folder: Path, *overrides: str, text: str = GOOD) -> dict[str, Any]:
    """What the overrides change, as dotted path -> value. Stages count from the first written."""
    before, after = (flat(load(folder, text, given)) for given in ((), overrides))
    return {key: value for key, value in after.items() if before.get(key, ...) != value}


def flat(loaded: LoadedRecipe) -> dict[str, Any]:
    leaves: dict[str, Any] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                visit(item, f"{path}.{key}")
        else:
            leaves[path[1:]] = value

    visit(loaded.recipe.model_dump(), "")
    return leaves


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("imgsz=320", {"imgsz": 320}),
        ("data=my set #2.yaml", {"data": "my set #2.yaml"}),
        ("data='3'", {"data": "3"}),
        ("device=0", {"device": "0"}),
        ("prune.target.macs=0.5", {"stages.2.target.macs": 0.5}),
        ("finetune.train.epochs=3", {"stages.3.train.epochs": 3}),
        ("stages.1.train.epochs=3", {"stages.3.train.epochs": 3}),
        ("finetune.train.lr0=1e-5", {"stages.3.train.lr0": 1e-5}),
        ("finetune.train.cos_lr=true", {"stages.3.train.cos_lr": True}),
        ("finetune.train={epochs: 1}", {"stages.3.train.epochs": 1, "stages.3.train.lr0": 0.001}),
        ("qat.calibration.images=8", {"stages.4.calibration.images": 8}),
        ("export.targets=[tensorrt]", {"stages.5.targets.0": "tensorrt"}),
        (" imgsz = 320 ", {"imgsz": 320}),
    ],
)
def test_an_override_changes_what_it_names(
    tmp_path: Path, override: str, change: dict[str, Any]
) -> None:
    assert changed(tmp_path, override) == change


@pytest.mark.parametrize(("stage", "index"), [("finetune", 3), ("qat", 4)])
def test_an_override_leaves_other_uses_of_an_anchor_alone(
    tmp_path: Path, stage: str, index: int
) -> None:
    given = f"{stage}.distill.losses.0.temperature=5"
    path = f"stages.{index}.distill.losses.0.temperature.start"
    assert changed(tmp_path, given) == {path: 5.0}


def test_a_stage_is_named_by_its_name_before_its_kind(tmp_path: Path) -> None:
    text = edited("- stage: finetune", "- stage: finetune\n    name: recover")
    text = text.replace("against: finetune", "against: recover")
    change = {"stages.3.train.epochs": 3}
    assert changed(tmp_path, "recover.train.epochs=3", text=text) == change
    assert changed(tmp_path, "finetune.train.epochs=3", text=text) == change


def test_the_last_of_several_wins_and_all_are_recorded(tmp_path: Path) -> None:
    given = ("imgsz=320", "seed=3", "imgsz=64")
    loaded = load(tmp_path, GOOD, given)
    assert (loaded.recipe.imgsz, loaded.recipe.seed, loaded.overrides) == (64, 3, given)


def test_an_override_may_mend_a_recipe(tmp_path: Path) -> None:
    loaded = load(tmp_path, edited("model: base.pt\n", ""), ["model=other.pt"])
    assert loaded.recipe.model == "other.pt"


BAD = {
    "imgsz": "an override is `key=value`",
    "=3": "an override is `key=value`",
    "qat..epochs=3": "an override is `key=value`",
    "imgz=3": "no key 'imgz'; did you mean 'imgsz'?",
    "epochs=3": "no key 'epochs' at the top of a recipe; did you mean 'finetune.train.epochs'?",
    "qqq=3": "no key 'qqq'; a recipe has version, model",
    "finetun.train.epochs=3": "no stage 'finetun'; did you mean 'finetune'?",
    "base.train.epochs=3": "no stage 'base'; its stages are prune, finetune",
    "data.path=3": "'data' has no keys of its own; write data=VALUE",
    "finetune=3": "'finetune' is a stage; name one of its keys",
    "stages.9.name=x": "stages has no position '9' (0 to 4)",
    "stages.-1.name=x": "stages has no position '-1'",
    "stages.prune.name=x": "stages has no position 'prune'",
    "finetune.train.epochs.x=3": "stages[1].train.epochs is 30, which has no 'x'",
    "finetune.distill.losses.1.weight=2": "losses has no position '1' (0 to 0)",
    "imgsz=99999999999999999999": "cannot be read as int",
    "imgsz=[": "'[' is not valid YAML",
    "finetune.train={epochs: 1, epochs: 2}": "epochs: duplicate key",
    "finetune.trian.epochs=3": "stages[1].trian: unknown key; did you mean 'train'?",
    "finetune.train.epocs=3": "no such training argument; did you mean 'epochs'?",
    "finetune.train.epochs=many": "stages[1].train.epochs: must be a whole number, got 'many'",
    "qat.train={lr0: 0.1}": "stages[2].train.epochs: missing",
    "imgsz=1": "imgsz: must be a multiple of 32, got 1",
}


@pytest.mark.parametrize("override", BAD)
def test_a_fault_of_an_override_names_the_override(tmp_path: Path, override: str) -> None:
    (line,) = faults(tmp_path, GOOD, [override])
    assert line.startswith(f"recipe.yaml: override '{override}': ")
    assert BAD[override] in line


def test_a_kind_that_several_stages_have_is_ambiguous(tmp_path: Path) -> None:
    again = "  - stage: finetune\n    name: again\n    train: {epochs: 1}\n  - stage: qat\n"
    text = edited("- stage: finetune\n", "- stage: finetune\n    name: first\n")
    text = text.replace("  - stage: qat\n", again).replace("against: finetune", "against: first")
    (line,) = faults(tmp_path, text, ["finetune.train.epochs=3"])
    assert "'finetune' may be 'stages.1' (line 10) or 'stages.2' (line 18); say which" in line
    load(tmp_path, text, ["again.train.epochs=3", "stages.1.train.epochs=3"])


def test_faults_of_the_file_and_of_overrides_come_together(tmp_path: Path) -> None:
    lines = faults(tmp_path, edited("align: 4", "algin: 4"), ["imgz=1", "seed=-1"])
    assert [line.split(": ")[0] for line in lines] == [
        "recipe.yaml",
        "recipe.yaml",
        "recipe.yaml:9:5",
    ]


ASSIGNMENTS = st.sampled_from(
    [
        "imgsz=320",
        "seed=7",
        "data=other.yaml",
        "finetune.train.epochs=3",
        "stages.1.train.batch=4",
        "qat.distill.losses.0.weight=0.5",
        "finetune.distill.teachers=[base]",
        "prune.target={macs: 0.7}",
        "bench.accept.min_speedup=1.5",
        "export.targets=[onnxruntime, tensorrt]",
    ]
)


@given(st.lists(ASSIGNMENTS, max_size=6))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_overriding_twice_is_overriding_once(tmp_path: Path, given: list[str]) -> None:
    once = load(tmp_path, GOOD, given).recipe
    assert load(tmp_path, GOOD, [*given, *given]).recipe == once


DIFFERENT = ["imgsz=64", "seed=2", "prune.align=16", "qat.train.epochs=2", "device=cpu"]


@given(st.permutations(DIFFERENT))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_overrides_of_different_keys_may_come_in_any_order(
    tmp_path: Path, given: list[str]
) -> None:
    assert load(tmp_path, GOOD, given).recipe == load(tmp_path, GOOD, DIFFERENT).recipe
