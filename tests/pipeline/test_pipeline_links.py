from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pipeline_fakes import recipe

from compress.errors import CompressError
from compress.pipeline.contract import Artifact
from compress.pipeline.links import FromRecipe, FromStage, link_steps, resolve_inputs
from compress.recipe.schema import Recipe


def links(of: Recipe) -> dict[str, dict[str, Any]]:
    return {step.name: dict(step.links) for step in link_steps(of)}


def test_whole_chain_is_linked_by_the_agreed_names() -> None:
    of = recipe({"finetune": {"name": "recover"}, "qat": {"name": "int8"}})
    assert links(of) == {
        "base": {"weights": FromRecipe("n.pt")},
        "teacher": {"weights": FromRecipe("s.pt")},
        "prune": {"checkpoint": FromStage("base", "checkpoint")},
        "recover": {
            "checkpoint": FromStage("prune", "checkpoint"),
            "teacher.0": FromStage("teacher", "checkpoint"),
        },
        "int8": {
            "checkpoint": FromStage("recover", "checkpoint"),
            "teacher.0": FromStage("teacher", "checkpoint"),
        },
        "export": {
            "checkpoint.base": FromStage("base", "checkpoint"),
            "checkpoint.prune": FromStage("prune", "checkpoint"),
            "checkpoint.recover": FromStage("recover", "checkpoint"),
            "checkpoint.int8": FromStage("int8", "checkpoint"),
            "ranges": FromStage("int8", "ranges"),
        },
        "bench": {"graph": FromStage("export", None)},
    }


def test_several_teachers_keep_their_order_and_files_are_named_by_the_recipe() -> None:
    distill = {"teachers": ["base", "x.pt", "teacher"], "losses": [{"kind": "cwd"}]}
    found = links(recipe({"finetune": {"distill": distill}}))["finetune"]
    assert found["teacher.0"] == FromStage("base", "checkpoint")
    assert found["teacher.1"] == FromRecipe("x.pt")
    assert found["teacher.2"] == FromStage("teacher", "checkpoint")


def test_without_quantization_export_takes_no_ranges() -> None:
    found = links(recipe(only=["base", "prune", "export"]))["export"]
    assert sorted(found) == ["checkpoint.base", "checkpoint.prune"]


def test_bench_takes_every_graph_of_the_last_export(tmp_path: Path) -> None:
    bench = link_steps(recipe())[-1]
    graphs = {name: Artifact(tmp_path / name, name) for name in ("base", "int8-onnxruntime")}
    inputs = resolve_inputs(bench, {}, {"export": graphs})
    assert sorted(inputs) == ["graph.base", "graph.int8-onnxruntime"]
    assert inputs["graph.base"].artifact == graphs["base"]
    assert inputs["graph.base"].origin == "export/base"


def test_missing_source_is_one_clear_message() -> None:
    bare = recipe(only=["base", "export", "bench"])
    for stages, what in ((bare.stages[1:], "a checkpoint"), (bare.stages[2:], "exported graphs")):
        with pytest.raises(CompressError, match=f"needs {what}, but no stage before"):
            link_steps(bare.model_copy(update={"stages": stages}))


def test_folders_follow_the_order_of_the_recipe() -> None:
    folders = [step.folder for step in link_steps(recipe())]
    assert folders[0] == "01-base"
    assert folders[-1] == "07-bench"
