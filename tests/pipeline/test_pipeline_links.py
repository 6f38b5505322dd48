from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pipeline_fakes import recipe

from compress.errors import CompressError
from compress.pipeline.contract import Artifact
from compress.pipeline.job import written_at
from compress.pipeline.links import FromImages, FromRecipe, FromStage, link_steps, resolve_inputs
from compress.recipe.schema import Recipe, SensitivityStage


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


def with_sensitivity(of: Recipe, at: int) -> Recipe:
    """``of`` with a sensitivity stage as its ``at``-th."""
    measure = SensitivityStage(stage="sensitivity")
    return of.model_copy(update={"stages": [*of.stages[:at], measure, *of.stages[at:]]})


def test_prune_takes_the_sensitivity_of_the_checkpoint_that_it_prunes() -> None:
    of = recipe(only=["base", "prune", "export"])
    found = links(with_sensitivity(of, 1))
    assert found["sensitivity"] == {"checkpoint": FromStage("base", "checkpoint")}
    assert found["prune"]["sensitivity"] == FromStage("sensitivity", "sensitivity")
    assert list(found["export"]) == ["checkpoint.base", "checkpoint.prune"]


def test_prune_takes_no_sensitivity_of_another_checkpoint() -> None:
    of = recipe({"finetune": {"distill": None}}, only=["base", "prune", "finetune"])
    base, prune, finetune = of.stages
    tuned_between = with_sensitivity(of.model_copy(update={"stages": [base, finetune, prune]}), 1)
    assert "sensitivity" in links(tuned_between)
    assert "sensitivity" not in links(tuned_between)["prune"]
    assert "sensitivity" not in links(with_sensitivity(of, 2))["prune"]


def test_a_prune_stage_that_recovers_takes_its_teachers() -> None:
    distill = {"teachers": ["base", "x.pt"], "losses": [{"kind": "cwd"}]}
    recover = {"train": {"epochs": 1}, "distill": distill}
    of = recipe({"prune": {"steps": 2, "recover": recover}}, only=["base", "prune"])
    assert links(of)["prune"] == {
        "checkpoint": FromStage("base", "checkpoint"),
        "teacher.0": FromStage("base", "checkpoint"),
        "teacher.1": FromRecipe("x.pt"),
    }
    assert written_at(of, "x.pt") == ("stages", 1, "recover", "distill", "teachers", 1, "model")


def test_an_average_needs_no_file_and_unlabeled_images_are_an_input(tmp_path: Path) -> None:
    distill = {
        "teachers": ["ema", {"model": "x.pt", "weight": 2}],
        "losses": [{"kind": "cwd"}],
        "unlabeled": {"images": "extra"},
    }
    of = recipe({"base": {"distill": distill}}, only=["base"])
    (step,) = (step for step in link_steps(of) if step.name == "base")
    assert step.links == {
        "weights": FromRecipe("n.pt"),
        "teacher.1": FromRecipe("x.pt"),
        "unlabeled": FromImages("extra"),
    }
    named = {name: Artifact(tmp_path / name, name) for name in ("n.pt", "x.pt", "extra")}
    found = resolve_inputs(step, named, {})["unlabeled"]
    assert found.artifact == named["extra"]
    assert found.origin == str(tmp_path / "extra")


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
