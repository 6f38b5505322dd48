"""The bench stage: INT8 files beside their float parents, in the runtimes they were made for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from small_nets import IMGSZ, settled_net
from stage_chain import Ran, artifact, run_stage
from torch import Tensor

import bench.run
import compress.stages.bench as stage
import compress.stages.bench_parent as bench_parent
import compress.stages.bench_plan as bench_plan
from bench.loop import Minimum
from compress.errors import CompressError
from compress.models.evaluate import Accuracy, evaluate
from compress.models.exportable import export_metadata, exportable
from compress.models.openvino_ir import write_ir
from compress.pipeline.gates import GateResult, check_gates
from compress.pipeline.links import link_steps
from compress.quantize.calibration import calibrate
from compress.quantize.prepare import simulate
from compress.recipe.schema import Recipe
from compress.report.figures import graphs as report_graphs
from compress.report.tables import exported_files
from export.dialects import write_dialect
from export.float_onnx import export_float
from export.int8_layers import float_convs

if TYPE_CHECKING:
    from compress.data.dataset import DataSet

openvino = pytest.importorskip("openvino")

KEPT = "model.4.cv1"
CONFIG = {"stage": "bench", "name": "bench", "min_seconds": 0.05, "min_count": 11}
FLOAT = ["base", "ptq"]
INT8 = ["int8-onnxruntime", "int8-openvino", "int8-tensorrt"]


@pytest.fixture(scope="module")
def exported(
    net_yaml: Path, images: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """What an export stage gives: two float files of one net, and INT8 for three runtimes."""
    folder = tmp_path_factory.mktemp("graphs")
    net = settled_net(net_yaml, images)
    targets = [name.removeprefix("int8-") for name in INT8]
    simulation = simulate(net, IMGSZ, [KEPT], targets)
    calibrate(simulation, [images], "minmax", 100.0)
    ranges = simulation.ranges(targets, [0.0] * len(simulation.points))
    files = {name: folder / f"{name}.onnx" for name in (*FLOAT, *INT8)}
    for name in FLOAT:
        export_float(exportable(net), IMGSZ, files[name], 17, export_metadata(net, IMGSZ))
    for target in targets:
        write_dialect(target, files["ptq"], ranges, files[f"int8-{target}"])
    return files


def run_bench(
    exported: dict[str, Path], names: Sequence[str], dataset: DataSet, folder: Path
) -> Ran:
    chosen = {name: exported[name] for name in (*FLOAT, *names)}
    inputs = {f"graph.{name}": artifact(path) for name, path in chosen.items()}
    return run_stage(CONFIG, inputs, dataset, folder)


@pytest.fixture(scope="module")
def ran(
    exported: dict[str, Path], dataset: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> Ran:
    """The stage on everything."""
    return run_bench(exported, INT8, dataset, tmp_path_factory.mktemp("bench") / "all")


@pytest.fixture
def measure(
    exported: dict[str, Path],
    dataset: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Ran]:
    """The stage on some INT8 files, without measuring mAP."""
    monkeypatch.setattr(stage, "evaluate", lambda *_, **__: Accuracy(0.5, 0.4))
    return lambda *names: run_bench(exported, names, dataset, tmp_path / "bench")


def rows_of(ran: Ran) -> dict[str, dict[str, Any]]:
    return {row["graph"]: row for row in ran.metrics["bench"]["rows"]}


def gates_of(ran: Ran, **accept: Any) -> list[GateResult]:
    stages = [
        {"stage": "train", "when": "never"},
        {"stage": "ptq"},
        {"stage": "export"},
        {"stage": "bench", "accept": accept},
    ]
    recipe = Recipe.model_validate(
        {"version": 1, "model": "net.pt", "data": "sample", "stages": stages}
    )
    step = next(step for step in link_steps(recipe) if step.name == "bench")
    return check_gates(step, {"bench": ran.metrics})


def fix_times(monkeypatch: pytest.MonkeyPatch, ms: dict[str, int]) -> None:
    def loop(calls: dict[str, Any], **_: Any) -> dict[str, list[int]]:
        return {label: [ms.get(label, 10)] * 64 for label in calls}

    monkeypatch.setattr(bench.run, "measure", loop)


def test_an_int8_file_is_timed_where_it_belongs_beside_its_parent(ran: Ran) -> None:
    rows = rows_of(ran)
    assert list(rows) == ["base", "ptq", INT8[0], "ptq@openvino", INT8[1], INT8[2]]
    runtimes = {name: row.get("runtime", "").split(" 2")[0] for name, row in rows.items()}
    assert runtimes["ptq@openvino"] == runtimes["int8-openvino"] == "OpenVINO"
    assert runtimes["ptq"].startswith("ONNX Runtime")
    assert "latency_ms" not in rows["int8-tensorrt"]
    assert rows[INT8[0]]["parent"]["graph"] == "ptq"
    assert rows[INT8[1]]["parent"]["graph"] == "ptq@openvino"
    times = {name: row["latency_ms"]["p50"] for name, row in rows.items() if "latency_ms" in row}
    for name in INT8[:2]:
        parent = rows[name]["parent"]
        assert parent["speedup"] == pytest.approx(times[parent["graph"]] / times[name])
        assert KEPT in parent["float_convs"]
    assert all(
        row["map"]["val"].keys() == {"map50", "map50_95", "subject"} for row in rows.values()
    )
    assert ran.metrics["bench"]["result"] == INT8[0]
    assert json.loads(json.dumps(ran.metrics, allow_nan=False)) == ran.metrics
    saved = json.loads(ran.files["measurements"].read_text())
    assert {row["label"] for row in saved["rows"]} == times.keys()


def test_the_report_shows_them(ran: Ran) -> None:
    run = {"stages": [{"name": "bench", "stage": "bench", "metrics": ran.metrics}]}
    shown = {graph.name: graph for graph in report_graphs(run)}
    assert shown["ptq@openvino"].precision == "fp32"
    assert shown["int8-openvino"].p50 is not None
    assert {"ptq@openvino", "int8-openvino"} <= {row.cells[0] for row in exported_files(run).rows}


@pytest.mark.slow
def test_a_recipe_for_openvino_alone_has_it_as_its_result(measure: Callable[..., Ran]) -> None:
    ran = measure("int8-openvino")
    assert ran.metrics["bench"]["result"] == "int8-openvino"
    assert list(rows_of(ran)) == ["base", "ptq", "ptq@openvino", "int8-openvino"]


def test_without_openvino_the_rest_is_measured_and_the_gap_told(
    measure: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        bench_plan, "find_spec", lambda name: None if name == "openvino" else object()
    )
    ran = measure(*INT8[:2])
    rows = rows_of(ran)
    assert list(rows) == ["base", "ptq", *INT8[:2]]
    assert "latency_ms" not in rows["int8-openvino"]
    assert rows["int8-openvino"]["map"] == {}
    [warning] = [text for text in ran.metrics["bench"]["warnings"] if "OpenVINO" in text]
    assert "pip install 'yolo-compress[openvino]'" in warning
    assert [gate.against for gate in gates_of(ran)] == ["ptq"]


@pytest.mark.slow
def test_a_slower_file_is_refused_with_what_is_to_blame(
    measure: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_times(monkeypatch, {INT8[0]: 9, INT8[1]: 12})
    monkeypatch.setattr(bench_parent, "_PROFILE", Minimum(0, 3))
    ran = measure(*INT8[:2])
    faster, slower = gates_of(ran)
    assert (faster.against, faster.passed) == ("ptq", True)
    assert (slower.against, slower.passed) == ("ptq@openvino", False)
    assert slower.value == pytest.approx(10 / 12)
    assert KEPT in str(slower)
    assert rows_of(ran)[INT8[0]]["parent"]["blame"] == []
    blame = rows_of(ran)[INT8[1]]["parent"]["blame"]
    assert all(row["layer"] and row["ms"] > row["parent_ms"] for row in blame)
    if blame:  # whether a layer of this net is slower in INT8 is the machine's affair
        assert blame[0]["layer"] in str(slower)
    assert gates_of(ran, never_slower=False) == []


def test_convolutions_that_stayed_float_are_found(exported: dict[str, Path]) -> None:
    everything = float_convs(exported["ptq"])
    for name in INT8:
        left = float_convs(exported[name])
        assert KEPT in left
        assert 1 < len(left) < len(everything) / 2
        assert left == [layer for layer in everything if layer in left]


def test_openvino_computes_the_map_itself(
    exported: dict[str, Path], data_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.nn.backends import openvino as backend

    seen: list[int] = []
    forward = backend.OpenVINOBackend.forward

    def counted(self: Any, im: Tensor) -> Any:
        seen.append(len(im))
        return forward(self, im)

    monkeypatch.setattr(backend.OpenVINOBackend, "forward", counted)
    expected = evaluate(exported["ptq"], data_yaml, IMGSZ)
    assert not seen
    assert evaluate(exported["ptq"], data_yaml, IMGSZ, runtime="openvino") == expected
    assert sum(seen) >= 8


@pytest.mark.parametrize("name", ["ptq", "int8-openvino"])
def test_the_ir_computes_what_the_file_does(
    exported: dict[str, Path], tmp_path: Path, images: Tensor, name: str
) -> None:
    folder = write_ir(exported[name], tmp_path)
    compiled = openvino.Core().compile_model(next(folder.glob("*.xml")), "CPU")
    image = images[:1].numpy()
    [found] = compiled(image).values()
    session = onnxruntime.InferenceSession(str(exported[name]))
    [expected] = session.run(None, {"images": image})
    apart = np.abs(found - expected)[:, 4:].mean()
    assert apart < (1e-5 if name == "ptq" else 0.05)
    assert "task: detect" in (folder / "metadata.yaml").read_text()


def test_openvino_that_is_missing_or_refuses_is_one_sentence(
    exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported["ptq"].read_bytes()[:2000])
    with pytest.raises(CompressError, match="OpenVINO cannot read"):
        write_ir(broken, tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(CompressError, match=r"yolo-compress\[openvino\]"):
        write_ir(exported["ptq"], tmp_path)
