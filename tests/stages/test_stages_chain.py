"""The chain of stages, from a model yaml to bench: files, metrics, alignment, determinism."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from slow import slow
from stage_chain import ALIGN, Chain, sha256
from torch import nn
from ultralytics import YOLO

from bench.alignment.convs import conv_sides, misaligned_convs
from compress.models.checkpoint import class_names, foreign_names, load_checkpoint
from compress.models.exportable import fused_copy
from compress.models.inspect import conv_widths, count_macs, count_params, dfl_convs, head_outputs
from export.ranges import load_ranges

CHECKPOINTS = ["base", "teacher", "prune", "finetune", "ptq", "qat"]
TRAINED = ["base", "teacher", "finetune", "qat"]
GRAPHS = ["base", "prune", "finetune", "qat", "int8-onnxruntime", "int8-tensorrt"]
KEYS = {
    **{name: {"checkpoint"} for name in CHECKPOINTS},
    "prune": {"checkpoint", "spec"},
    "ptq": {"checkpoint", "ranges"},
    "qat": {"checkpoint", "ranges"},
    "export": set(GRAPHS),
    "bench": {"measurements", "detections"},
}


@pytest.fixture(scope="module")
def chain(chain: Chain) -> Chain:
    """All of it, whatever a test looks at."""
    return chain.run_all()


@pytest.mark.parametrize("stage", KEYS)
def test_a_stage_leaves_the_files_that_it_names_and_no_others(chain: Chain, stage: str) -> None:
    ran = chain.ran[stage]
    assert ran.files.keys() == KEYS[stage]
    assert {path.name for path in ran.out.iterdir()} == {path.name for path in ran.files.values()}
    assert all(path.stat().st_size > 0 for path in ran.files.values())


@pytest.mark.parametrize("stage", KEYS)
def test_metrics_are_plain_json(chain: Chain, stage: str) -> None:
    metrics = chain.ran[stage].metrics
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


@pytest.mark.parametrize("stage", CHECKPOINTS)
def test_a_checkpoint_is_measured(chain: Chain, stage: str) -> None:
    ran = chain.ran[stage]
    model = load_checkpoint(ran.files["checkpoint"])
    assert ran.metrics["params"] == count_params(model)
    assert ran.metrics["macs"] == count_macs(model, 64)
    assert 0.0 <= ran.metrics["map50_95"] <= ran.metrics["map50"] <= 1.0
    assert class_names(model) == chain.data.names


@pytest.mark.parametrize("stage", TRAINED)
def test_a_training_gives_its_curves_by_name(chain: Chain, stage: str) -> None:
    curves = chain.ran[stage].metrics["curves"]
    assert all(len(values) == 1 for values in curves.values())  # one an epoch
    names = " ".join(curves)
    for loss in ("box_loss", "cls_loss", "dfl_loss"):
        assert loss in names
    assert ("cwd" in names) == (stage in {"finetune", "qat"})


def test_every_stage_changes_the_weights(chain: Chain) -> None:
    hashes = [chain.ran[stage].hashes()["checkpoint"] for stage in ("base", "prune", "finetune")]
    assert len(set(hashes)) == 3


def aligned(model: nn.Module) -> dict[str, int]:
    """Widths that pruning decides."""
    fixed = {*head_outputs(model), *dfl_convs(model)}
    return {name: width for name, width in conv_widths(model).items() if name not in fixed}


@pytest.mark.parametrize("stage", ["prune", "finetune", "ptq", "qat"])
def test_pruned_widths_are_aligned_and_kept_by_the_stages_after(chain: Chain, stage: str) -> None:
    base = load_checkpoint(chain.ran["base"].files["checkpoint"])
    model = load_checkpoint(chain.ran[stage].files["checkpoint"])
    widths = aligned(model)
    assert all(width % ALIGN == 0 for width in widths.values())
    assert widths == aligned(load_checkpoint(chain.ran["prune"].files["checkpoint"]))
    narrower = [name for name, width in aligned(base).items() if widths[name] < width]
    assert len(narrower) > 5


def test_pruning_says_what_it_cut(chain: Chain) -> None:
    metrics, base = chain.ran["prune"].metrics, chain.ran["base"].metrics
    target = metrics["target"]
    assert (target["resource"], target["keep"]) == ("macs", 0.6)
    assert target["kept"] == metrics["macs_kept"]
    assert metrics["macs_kept"] == pytest.approx(metrics["macs"] / base["macs"], rel=1e-6)
    assert metrics["macs_kept"] == pytest.approx(0.6, abs=0.03)
    model = load_checkpoint(chain.ran["prune"].files["checkpoint"])
    after = {name: widths[1] for name, widths in metrics["channels"].items()}
    before = {name: widths[0] for name, widths in metrics["channels"].items()}
    assert after == conv_widths(model)
    assert before == conv_widths(load_checkpoint(chain.ran["base"].files["checkpoint"]))


@pytest.mark.parametrize("graph", ["prune", "finetune", "qat", "int8-onnxruntime", "int8-tensorrt"])
def test_graphs_are_aligned(chain: Chain, graph: str) -> None:
    path = chain.ran["export"].files[graph]
    assert misaligned_convs(path, ALIGN) == []
    assert misaligned_convs(path, 64)  # the check does see widths
    assert len(conv_sides(path)) > 100


@pytest.mark.parametrize("stage", ["prune", "ptq", "qat"])
def test_a_checkpoint_is_stock(chain: Chain, stage: str) -> None:
    path = chain.ran[stage].files["checkpoint"]
    assert foreign_names(path) == []
    model = YOLO(path)
    owners = {type(module).__module__.split(".")[0] for module in model.model.modules()}
    assert owners == {"torch", "ultralytics"}
    assert not [key for key in model.model.state_dict() if "quantizer" in key or "scale" in key]
    assert [m for m in model.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert model.predict(chain.data.splits["val"][0], imgsz=64, verbose=False, save=False)


def test_ptq_leaves_the_weights_alone_and_qat_trains_weights_and_ranges(chain: Chain) -> None:
    parent, ptq, qat = (
        fused_copy(load_checkpoint(chain.ran[stage].files["checkpoint"])).state_dict()
        for stage in ("finetune", "ptq", "qat")
    )
    key = "model.2.cv1.conv.weight"
    assert bool((parent[key] == ptq[key]).all())
    assert not bool((parent[key] == qat[key]).all())
    before = load_ranges(chain.ran["ptq"].files["ranges"])
    after = load_ranges(chain.ran["qat"].files["ranges"])
    assert before.convs == after.convs
    assert [g.tensors for g in before.groups] == [g.tensors for g in after.groups]
    trained = [
        new.tensors[0]
        for old, new in zip(before.groups, after.groups, strict=True)
        if old.scale != pytest.approx(new.scale, rel=1e-3)
    ]
    assert len(trained) > 20
    assert "images" not in trained  # a range that is known is not trained


@pytest.mark.parametrize("stage", ["ptq", "qat"])
def test_quantization_says_how_many_images_it_saw(chain: Chain, stage: str) -> None:
    metrics = chain.ran[stage].metrics
    assert any("16 images of the train split" in note for note in metrics["notes"])
    assert any("fewer than 100" in note for note in metrics["notes"])
    assert 0.0 <= metrics["clipped_share"] <= 1.0


def test_export_gives_one_float_file_a_checkpoint_then_int8(chain: Chain) -> None:
    ran = chain.ran["export"]
    assert list(ran.files) == GRAPHS  # bench takes the first as base
    assert ran.metrics["parity"].keys() == set(GRAPHS)
    sizes = {key: path.stat().st_size for key, path in ran.files.items()}
    assert sizes["base"] > sizes["prune"] > 2 * sizes["int8-onnxruntime"]
    assert ran.files["base"].name == "base.onnx"


def test_bench_measures_every_graph_against_the_base(chain: Chain) -> None:
    bench = chain.ran["bench"].metrics["bench"]
    assert bench.keys() == {"rows", "result", "machine", "settings", "warnings"}
    assert bench["result"] == "int8-onnxruntime"
    rows = {row["graph"]: row for row in bench["rows"]}
    assert list(rows) == GRAPHS
    for name, row in rows.items():
        int8 = name.startswith("int8-")
        assert row["precision"] == ("int8" if int8 else "fp32")
        assert row["stage"] == ("qat" if int8 else name)
        assert row["bytes"] == chain.ran["export"].files[name].stat().st_size
        assert row["map"].keys() == {"val"}
        assert row["map"]["val"].keys() == {"map50", "map50_95", "subject"}
        if name != "int8-tensorrt":  # which no runtime here is meant for
            assert row["latency_ms"].keys() == {"p50", "p90", "p99", "mean", "cv", "count"}
            assert row["fps"] > 0
    assert rows["base"]["speedup"] == 1.0
    base, pruned = (rows[name]["latency_ms"]["p50"] for name in ("base", "prune"))
    assert rows["prune"]["speedup"] == pytest.approx(base / pruned, rel=0.25)
    assert "latency_ms" not in rows["int8-tensorrt"]
    saved = json.loads(chain.ran["bench"].files["measurements"].read_text())
    assert {row["label"] for row in saved["rows"]} == set(GRAPHS) - {"int8-tensorrt"}


def test_detections_are_a_picture(chain: Chain) -> None:
    import cv2

    picture = cv2.imread(str(chain.ran["bench"].files["detections"]))
    assert picture.shape[0] > 300
    assert picture.shape[1] > 300


@pytest.mark.parametrize(
    "stage",
    [
        *("prune", "finetune", "ptq"),
        *slow("teacher", "qat", "export"),
    ],
)
def test_the_same_stage_twice_gives_the_same_bytes(chain: Chain, stage: str) -> None:
    assert chain.again(stage).hashes() == chain.ran[stage].hashes()


def test_the_chain_gets_smaller(chain: Chain) -> None:
    macs = [chain.ran[stage].metrics["macs"] for stage in ("teacher", "base", "prune")]
    assert all(larger > smaller for larger, smaller in pairwise(macs))
    assert chain.ran["qat"].metrics["macs"] == macs[-1]


def test_inputs_are_left_as_they_were(chain: Chain) -> None:
    for _, inputs in chain.asked.values():
        for entry in inputs.values():
            assert sha256(entry.path) == entry.sha256


def test_no_stage_writes_beside_its_folders(chain: Chain, net_yaml: Path) -> None:
    names = {path.name.removesuffix("-again") for path in chain.folder.iterdir()}
    assert names == set(chain.ran)
    for folder in chain.folder.iterdir():
        assert {path.name for path in folder.iterdir()} == {"out", "scratch"}
