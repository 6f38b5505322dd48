"""Training arguments: ultralytics' own list decides which there are, the pipeline which it owns."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_texts import edited, load

from compress.models import arguments, shipped
from compress.models.arguments import OWNED, SHARES, argument_faults, known_arguments, trainable
from compress.recipe.sections import TrainArguments

needs_ultralytics = pytest.mark.skipif(not known_arguments(), reason="ultralytics is not installed")


def messages(given: dict[str, Any]) -> list[str]:
    return [f"{fault.key}: {fault.message}" for fault in argument_faults(given, known_arguments())]


def upstream_sets() -> dict[str, Any]:
    """The sets that ultralytics checks its arguments with, read without importing it."""
    folder = shipped.ultralytics_folder()
    assert folder is not None
    tree = ast.parse((folder / "cfg" / "__init__.py").read_text(encoding="utf-8"))
    return {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value.args[0])
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "frozenset"
    }


@needs_ultralytics
def test_every_default_of_ultralytics_is_accepted() -> None:
    file = shipped.default_arguments_file()
    assert file is not None
    defaults = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert defaults.keys() == known_arguments().keys()
    assert messages({key: defaults[key] for key in trainable(defaults)}) == []


@needs_ultralytics
def test_every_argument_that_a_recipe_may_give_has_known_types() -> None:
    known = known_arguments()
    assert [key for key in trainable(known) if not known[key]] == []


@needs_ultralytics
def test_arguments_that_the_pipeline_owns_are_arguments() -> None:
    deprecated = {"half", "int8"}
    assert set(OWNED) - set(known_arguments()) == deprecated | {"save_dir"}
    assert not set(OWNED) & set(TrainArguments.model_fields)


@needs_ultralytics
def test_the_shares_are_those_of_ultralytics() -> None:
    theirs = upstream_sets()["CFG_FRACTION_KEYS"] - OWNED.keys()
    assert (theirs - {"lr0", "fraction"}) | {"scale"} == SHARES


@needs_ultralytics
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mosaic", "much", "must be a number, got 'much'"),
        ("mosaic", True, "must be a number, got True"),
        ("mosaic", -0.1, "must be from 0 to 1"),
        ("box", float("inf"), "finite"),
        ("patience", 1.5, "must be a whole number"),
        ("patience", -1, "at least 0"),
        ("mask_ratio", 0, "at least 1"),
        ("cos_lr", "yes", "must be true or false"),
        ("copy_paste_mode", "flop", "one of flip, mixup"),
        ("amp", "fp8", "one of fp16, bf16, fp32"),
        ("cache", 3, "must be true or false or text"),
        ("fraction", 0.0, "above 0"),
        ("fraction", [0.5, 0.5], "val is always measured whole"),
        ("degrees", None, "not empty"),
        ("label_smooth", 0.1, "no such training argument"),
        ("save_dir", "x", "--out"),
        ("half", True, "stage: qat"),
        ("batch_size", 3, "no such training argument"),
    ],
)
def test_a_wrong_argument_is_told(key: str, value: object, words: str) -> None:
    (message,) = messages({key: value})
    assert message.startswith(f"{key}: ")
    assert words in message


@needs_ultralytics
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("amp", False),
        ("amp", "bf16"),
        ("cache", "ram"),
        ("rect", True),
        ("scale", [0.5, 2.0]),
        ("fraction", 0.5),
        ("fraction", 100),
        ("freeze", None),
        ("freeze", [0, "23.cv2"]),
        ("mixup", 1),
        ("warmup_epochs", 0.5),
    ],
)
def test_a_right_argument_is_accepted(key: str, value: object) -> None:
    assert messages({key: value}) == []


def test_without_ultralytics_only_owned_arguments_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(arguments, "default_arguments_file", lambda: None)
    faults = list(argument_faults({"anything": 1, "imgsz": 3}, known_arguments()))
    assert [fault.key for fault in faults] == ["imgsz"]
    text = edited("mosaic: 0.5", "anything: 1")
    train = load(tmp_path, text).recipe.stages[3].model_dump()["train"]
    assert train == {"epochs": 30, "batch": 16, "optimizer": "AdamW", "lr0": 0.002, "anything": 1}
