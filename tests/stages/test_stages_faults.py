"""What quantization, export and bench look at, and what they refuse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from small_nets import IMGSZ, Silent, settled_net
from stage_chain import TRAIN, Chain, artifact, run_stage
from torch import Tensor, nn

import compress.stages.export as export_stage
from bench.errors import BenchAlignmentError
from compress.data.dataset import DataSet, load_dataset
from compress.errors import CompressError
from compress.models.build import build_model
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.evaluate import Accuracy
from compress.models.exportable import fused_copy
from compress.models.trainer import Training
from compress.pipeline.contract import Artifact, Context
from compress.quantize.simulation import QUANTIZERS
from compress.recipe.schema import PtqStage, Stage, TrainStage
from compress.stages import checkpoints, finetune, qat, train
from compress.stages.quantization import calibration_images
from export.errors import ExportError
from export.ranges import load_ranges


def replace_by_noise(images: Path) -> None:
    for path in sorted(images.iterdir()):
        noise = np.random.default_rng(0).integers(0, 2, (160, 160, 3)) * 255
        cv2.imwrite(str(path), noise.astype(np.uint8))


@pytest.mark.parametrize("split", ["val", "train"])
def test_ranges_come_from_the_train_split_alone(chain: Chain, tmp_path: Path, split: str) -> None:
    """Absurd images in val change nothing; in train they do."""
    source = chain.data.yaml.parent
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    replace_by_noise(copy / "images" / split)
    absurd = load_dataset(copy / chain.data.yaml.name)
    assert all(path.is_relative_to(copy) for path in absurd.splits["train"])
    inputs = {"checkpoint": chain.checkpoint("finetune")}
    ran = run_stage({"stage": "ptq"}, inputs, absurd, tmp_path / "run")
    same = ran.hashes()["ranges"] == chain.ran["ptq"].hashes()["ranges"]
    assert same == (split == "val")


def test_options_of_calibration_reach_the_ranges(chain: Chain, tmp_path: Path) -> None:
    inputs = {"checkpoint": chain.checkpoint("finetune")}
    plain = load_ranges(chain.ran["ptq"].files["ranges"])  # percentile 99.999, all images

    def narrower(name: str, config: dict[str, Any]) -> float:
        """Share of the groups whose range is narrower than without these options."""
        ran = run_stage({"stage": "ptq", **config}, inputs, chain.data, tmp_path / name)
        ranges = load_ranges(ran.files["ranges"])
        assert ("model.0.conv" in ranges.convs) == ("float_layers" not in config)
        before = {g.tensors[0]: g.high - g.low for g in plain.groups}
        after = {g.tensors[0]: g.high - g.low for g in ranges.groups}
        return sum(after[t] < 0.999 * before[t] for t in after) / len(after)

    assert narrower("cut", {"calibration": {"percentile": 97.0}}) > 0.5
    few = {"calibration": {"method": "minmax", "images": 1}, "float_layers": ["model.0"]}
    assert narrower("few", few) > 0.1


def test_the_map_of_ptq_is_measured_in_int8(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Any] = []

    def evaluate(model: nn.Module, *args: Any, **kwargs: Any) -> Accuracy:
        measured.append(model)
        return Accuracy(0.5, 0.25)

    monkeypatch.setattr(checkpoints, "evaluate", evaluate)
    inputs = {"checkpoint": chain.checkpoint("finetune")}
    ran = run_stage({"stage": "ptq"}, inputs, chain.data, tmp_path)
    assert (ran.metrics["map50"], ran.metrics["map50_95"]) == (0.5, 0.25)
    (model,) = measured
    assert hasattr(model, QUANTIZERS)


@pytest.fixture
def context(chain: Chain, tmp_path: Path) -> Context:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    return Context(chain.data, IMGSZ, 0, "cpu", 0, out, scratch, scratch, Silent())


def test_the_seed_chooses_the_calibration_images(context: Context) -> None:
    config = PtqStage.model_validate({"stage": "ptq", "calibration": {"images": 5}})
    paths = calibration_images(config, context).paths
    assert len(set(paths)) == 5
    assert set(paths) <= set(context.data.splits["train"])
    assert calibration_images(config, context).paths == paths
    assert calibration_images(config, replace(context, seed=1)).paths != paths


@pytest.mark.parametrize("stage", [finetune, qat])
def test_what_a_training_gives_is_saved_and_not_the_student_it_leaves(
    chain: Chain, context: Context, monkeypatch: pytest.MonkeyPatch, stage: ModuleType
) -> None:
    """A training's result is the average of its best epoch; the student has the last one's."""
    given: dict[str, Tensor] = {}

    def fit(student: nn.Module, *args: Any) -> Training:
        for key, value in student.state_dict().items():
            given[key] = value + 0.01 if value.is_floating_point() else value.clone()
        return Training(given, {"loss": [1.0]})

    monkeypatch.setattr(stage, "fit", fit)
    name = stage.__name__.rpartition(".")[2]
    config = TypeAdapter(Stage).validate_python({"stage": name, "train": TRAIN})
    result = stage.run(config, {"checkpoint": chain.checkpoint("finetune")}, context)
    model = load_checkpoint(context.out / result.files["checkpoint"])
    saved = (fused_copy(model) if stage is qat else model).state_dict()
    assert torch.equal(saved["model.4.cv1.conv.weight"], given["model.4.cv1.conv.weight"])
    assert result.metrics["curves"] == {"loss": [1.0]}
    if stage is qat:
        before = load_ranges(chain.ran["ptq"].files["ranges"])
        after = load_ranges(context.out / result.files["ranges"])
        assert [g.scale for g in before.groups] != [g.scale for g in after.groups]


def test_a_float_layer_that_matches_nothing_is_refused(chain: Chain, tmp_path: Path) -> None:
    inputs = {"checkpoint": chain.checkpoint("finetune")}
    with pytest.raises(ExportError, match=r"'model\.77' matches no convolution"):
        run_stage({"stage": "ptq", "float_layers": ["model.77"]}, inputs, chain.data, tmp_path)


def test_export_without_ranges_gives_float_files_only(chain: Chain, tmp_path: Path) -> None:
    inputs = {"checkpoint.base": chain.checkpoint("base")}
    config = {"stage": "export", "targets": ["onnxruntime", "tensorrt"]}
    ran = run_stage(config, inputs, chain.data, tmp_path)
    assert ran.files.keys() == {"base"}


def test_export_refuses_ranges_of_another_checkpoint(
    chain: Chain, net_yaml: Path, tmp_path: Path
) -> None:
    yaml = tmp_path / "deep.yaml"
    yaml.write_text(net_yaml.read_text().replace("depth_multiple: 0.33", "depth_multiple: 0.67"))
    save_checkpoint(build_model(yaml, chain.data.names, 0), tmp_path / "deep.pt")
    inputs = {
        "checkpoint.deep": artifact(tmp_path / "deep.pt"),
        "ranges": chain.ranges("qat"),
    }
    with pytest.raises((CompressError, ExportError), match="another model"):
        run_stage({"stage": "export"}, inputs, chain.data, tmp_path / "run")


@pytest.fixture
def sure(net_yaml: Path, images: Tensor, tmp_path: Path) -> Artifact:
    """A checkpoint that sees something in every cell, and is not chaotic."""
    model = settled_net(net_yaml, images)
    for branch in [*model.model[-1].cv2, *model.model[-1].cv3]:
        branch[-1].weight.data *= 0.05
    save_checkpoint(model, tmp_path / "sure.pt")
    return artifact(tmp_path / "sure.pt")


def test_export_measures_how_far_a_file_is_off(
    sure: Artifact, dataset: DataSet, tmp_path: Path
) -> None:
    config = {"stage": "export", "parity_images": 3}
    ran = run_stage(config, {"checkpoint.base": sure}, dataset, tmp_path / "run")
    parity = ran.metrics["parity"]["base"]
    assert parity["cells"] > 50
    assert parity["worst_score"] < 1e-3
    assert parity["box"] < 0.01


@pytest.mark.slow
def test_export_measures_int8_files_against_the_simulation(
    sure: Artifact, dataset: DataSet, tmp_path: Path
) -> None:
    ptq = run_stage({"stage": "ptq"}, {"checkpoint": sure}, dataset, tmp_path / "ptq")
    inputs = {"checkpoint.ptq": sure, "ranges": ptq.artifact("ranges")}
    config = {"stage": "export", "targets": ["onnxruntime", "tensorrt"], "parity_images": 3}
    ran = run_stage(config, inputs, dataset, tmp_path / "run")
    for name, limit in {"ptq": 1e-4, "int8-onnxruntime": 0.02, "int8-tensorrt": 0.04}.items():
        parity = ran.metrics["parity"][name]
        assert parity["cells"] > 100
        assert parity["score"] < limit
        assert f"{name}: on {parity['cells']} confident cells" in " ".join(ran.metrics["notes"])


def test_export_refuses_a_file_that_computes_something_else(
    sure: Artifact, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., None] = export_stage.export_float

    def wrong(module: nn.Module, *args: Any) -> None:
        module.model[0].conv.bias.data += 0.5
        write(module, *args)

    monkeypatch.setattr(export_stage, "export_float", wrong)
    with pytest.raises(CompressError, match=r"base\.onnx"):
        run_stage({"stage": "export"}, {"checkpoint.base": sure}, dataset, tmp_path / "run")


def test_bench_refuses_ragged_channels_by_layer_and_measures_nothing(
    chain: Chain, tmp_path: Path
) -> None:
    graphs = {
        f"graph.{key}": artifact(path)
        for key, path in chain.ran["export"].files.items()
        if key in {"base", "int8-onnxruntime"}
    }
    config = {"stage": "bench", "align": 64, "min_seconds": 0.1}
    with pytest.raises(BenchAlignmentError, match=r"int8-onnxruntime +model\.0 +output") as error:
        run_stage(config, graphs, chain.data, tmp_path / "run")
    assert error.value.exit_code == 3
    assert not list((tmp_path / "run" / "out").iterdir())


def test_a_stage_takes_its_seed_from_the_context(chain: Chain, context: Context) -> None:
    """Else `seed:` of a recipe would do nothing."""
    config = TrainStage.model_validate({"stage": "train", "when": "never"})
    _, inputs = chain.asked["base"]
    weights = []
    for seed in (0, 1):
        train.run(config, inputs, replace(context, seed=seed))
        weights.append(
            load_checkpoint(context.out / "model.pt").state_dict()["model.0.conv.weight"]
        )
    assert not bool((weights[0] == weights[1]).all())
