"""What loading gives: a recipe in full, places for later faults, and nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_texts import GOOD, load

from compress.errors import Problem, RecipeError
from compress.recipe import load_recipe
from compress.recipe.tree import Fault

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.floats()
    | st.sampled_from(["base", "qat", "x.pt", "1e-4", "", "prune"])
)
ODD = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["stage", "train", "kind", "epochs", "zz"]), inner)
    ),
    max_leaves=6,
)
TUNES = st.fixed_dictionaries(
    {"epochs": st.integers(1, 300)},
    optional={
        "batch": st.integers(1, 64),
        "lr0": st.floats(1e-6, 0.1),
        "mosaic": st.floats(0, 1),
        "cos_lr": st.booleans(),
        "freeze": st.lists(st.integers(0, 9), max_size=3),
    },
)
STAGES = st.fixed_dictionaries(
    {
        "prune": st.fixed_dictionaries(
            {
                "stage": st.just("prune"),
                "target": st.sampled_from(
                    [{"macs": 0.5}, {"params": 0.3}, {"latency": 0.6}, {"speedup": 2.5}]
                ),
            },
            optional={
                "align": st.sampled_from([1, 4, 8, 16]),
                "ignore": st.just(["model.0*"]),
                "min_channels": st.dictionaries(st.sampled_from(["model.1.*", "*"]), st.just(8)),
                "importance": st.sampled_from(["l2", "random"]),
                "accept": st.just({"never_slower": False, "map50": {"max_drop": 0.5}}),
            },
        ),
        "finetune": TUNES.map(lambda train: {"stage": "finetune", "train": train}),
        "qat": TUNES.map(
            lambda train: {
                "stage": "qat",
                "train": train,
                "distill": {"losses": [{"kind": "cwd"}]},
                "accept": {"map50": {"max_drop": 0.1}},
            }
        ),
        "bench": st.sampled_from([{"stage": "bench"}, {"stage": "bench", "splits": ["test"]}]),
    }
)
RECIPES = st.tuples(STAGES, st.integers(1, 40), st.booleans()).map(
    lambda parts: {
        "version": 1,
        "model": "a.pt",
        "teacher": "b.pt",
        "data": "c.yaml",
        "imgsz": 32 * parts[1],
        "stages": [
            *([{"stage": "train", "when": "classes_differ", "train": {"epochs": 1}}] * parts[2]),
            *(parts[0][kind] for kind in ("prune", "finetune", "qat")),
            {"stage": "export"},
            parts[0]["bench"],
        ],
    }
)


@given(RECIPES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recipe_written_out_in_full_is_the_same_recipe(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    first = load(tmp_path, yaml.safe_dump(recipe)).recipe
    for exclude_none in (False, True):
        full = first.model_dump(mode="json", exclude_none=exclude_none)
        assert load(tmp_path, yaml.safe_dump(full, sort_keys=False)).recipe == first


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(item, (*path, key))


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_wrong_value_anywhere_is_a_fault_with_a_place_in_plain_words(
    tmp_path: Path, data: st.DataObject
) -> None:
    recipe = yaml.safe_load(GOOD)
    *parents, last = data.draw(st.sampled_from(list(paths(recipe))[1:]))
    parent = recipe
    for key in parents:
        parent = parent[key]
    parent[last] = data.draw(ODD)
    problems: list[Problem] = []
    try:
        load(tmp_path, yaml.safe_dump(recipe))
    except RecipeError as error:
        problems = error.problems
    words = " ".join(problem.message for problem in problems).lower()
    assert all(problem.line and problem.column for problem in problems)
    assert "input should" not in words  # pydantic's own words
    assert "value error" not in words


def test_places_of_later_faults(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD, ["qat.train.epochs=2"])
    names = [stage.name for stage in loaded.recipe.stages]
    assert names == ["base", "teacher", "prune", "finetune", "qat", "export", "bench"]

    def place(*path: str | int) -> str:
        return str(loaded.error([Fault(path, "is bad")])).replace(f"{tmp_path}/", "")

    assert place("data") == "recipe.yaml:5:7: is bad"
    assert place("stages", 2, "target", "macs") == "recipe.yaml:8:20: is bad"
    assert place("stages", 2, "max_pruned") == "recipe.yaml:7:5: is bad"
    assert place("stages", 0) == "recipe.yaml:3:8: is bad"
    assert place("stages", 1, "train") == "recipe.yaml:4:10: is bad"
    assert place("imgsz") == "recipe.yaml:2:1: is bad"
    override = "recipe.yaml: override 'qat.train.epochs=2': is bad"
    assert place("stages", 4, "train", "epochs") == override


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"none\.yaml: cannot read the recipe: No such file"):
        load_recipe(tmp_path / "none.yaml")


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(GOOD)
    code = (
        "import sys; from pathlib import Path; from compress.recipe import load_recipe;"
        "import compress.recipe.references; load_recipe(Path(sys.argv[1]));"
        "heavy = {'torch', 'ultralytics', 'onnx', 'onnxruntime', 'matplotlib', 'cv2'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
