"""``compress bench profile``: real nets in real runtimes, one file and two, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_graphs import Builder, Conv, save_chain
from onnx import TensorProto, helper
from typer.testing import CliRunner

from bench.entries import TENSORRT, Entry
from bench.profile.run import profile_files
from bench.profile.text import render_profiles
from bench.settings import Settings
from compress.cli import app

CONVS = [
    Conv("/model.0/conv/Conv", 3, 16),
    Conv("/model.1/conv/Conv", 16, 512),
    Conv("/model.2/conv/Conv", 512, 16),
]
QUICK = Settings(min_seconds=0, min_count=1, warmup_seconds=0, energy_seconds=0)


def profile(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["bench", "profile", *arguments, "--min-seconds", "0"])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", CONVS, shape=(1, 3, 32, 32))


@pytest.fixture
def int8(tmp_path: Path) -> Path:
    path = tmp_path / "int8.onnx"
    return save_chain(path, CONVS, shape=(1, 3, 32, 32), quantized=True)


def save_rounded(path: Path, *, output: bool) -> Path:
    """A conv with Q/DQ at data and weights; only if at its ``output``, too, is it INT8 for ORT."""
    builder = Builder()
    scale = builder.constant("scale", np.float32(0.02))
    zero = builder.constant("zero", np.uint8(0))
    integers = builder.constant("integers", np.ones((16, 3, 1, 1), np.int8))
    weight = builder.add(
        "DequantizeLinear", [integers, scale, builder.constant("middle", np.int8(0))], "weight"
    )

    def rounded(data: str) -> str:
        data = builder.add("QuantizeLinear", [data, scale, zero], f"{data}.q")
        return builder.add("DequantizeLinear", [data, scale, zero], f"{data}.dq")

    out = builder.add("Conv", [rounded("images"), weight], "y", name="/model.0/conv/Conv")
    out = builder.add("Relu", [rounded(out) if output else out], "out")
    return builder.save(path, [out], (1, 3, 32, 32), TensorProto.FLOAT)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_rows_sum_up_to_the_profile_and_carry_the_graphs_facts(net: Path, runtime: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    found = profile_files([net], QUICK, runtime)
    [profiled] = found.profiles
    rows = {row.module: row for row in profiled.rows}
    assert {"model.0", "model.1", "model.2"} <= rows.keys()
    assert sum(row.ms for row in profiled.rows) == pytest.approx(profiled.sum_ms)
    assert profiled.latency_ms > 0
    wide = rows["model.1"]
    assert (wide.kind, wide.precision, wide.outputs) == ("conv 1x1 s1", "float", 512)
    assert wide.macs == 32 * 32 * 16 * 512
    assert wide.ms > rows["model.0"].ms > 0
    assert found.changes == []


def test_two_files_are_compared_by_module(net: Path, int8: Path) -> None:
    code, text, _ = profile(str(net), str(int8), "--top", "2")
    assert code == 0
    assert "net against int8, the largest differences first" in text
    assert "float -> int8" not in text  # without Q/DQ behind them, ONNX Runtime leaves them float
    assert text.count("What would have to shrink") == 2
    assert text.count("latency without the profiler") == 2
    assert "more" in text


def test_a_change_of_type_is_told(tmp_path: Path) -> None:
    files = [save_rounded(tmp_path / f"{on}.onnx", output=on) for on in (False, True)]
    assert "float -> int8" in profile(*map(str, files))[1]


@pytest.mark.parametrize(
    ("runtime", "output", "ran"),
    [("onnxruntime", True, "int8"), ("onnxruntime", False, "float"), ("openvino", False, "int8")],
)
def test_the_type_is_what_ran_not_what_the_file_says(
    tmp_path: Path, runtime: str, output: bool, ran: str
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    path = save_rounded(tmp_path / "net.onnx", output=output)
    found = profile_files([path], QUICK, runtime)
    [row] = [row for row in found.profiles[0].rows if row.module == "model.0"]
    assert (row.precision, row.in_file) == (ran, "int8")
    told = "rows have Q/DQ but ran in float, wholly or in part: model.0."
    assert (told in render_profiles(found, 5)) == (ran == "float")


def test_the_json_document_holds_everything(net: Path, int8: Path) -> None:
    code, text, _ = profile(str(net), str(int8), "--json", "--threads", "1")
    assert code == 0
    found = json.loads(text)
    first, second = found["profiles"]
    assert (found["schema"], found["kind"]) == (1, "profile")
    assert [first["label"], second["label"]] == ["net", "int8"]
    assert sum(row["ms"] for row in second["rows"]) == pytest.approx(second["sum_ms"])
    whole = second["sum_ms"] - first["sum_ms"]
    assert sum(change["difference"] for change in found["changes"]) == pytest.approx(whole)


def test_an_ir_has_times_without_macs(net: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = net.with_suffix(".xml")
    openvino.save_model(openvino.Core().read_model(str(net)), str(path))
    code, text, _ = profile(str(path))
    assert code == 0
    assert "model.1" in text
    assert "MACs and kinds are read from ONNX files; 'net.xml' is none." in text


def test_files_of_one_name_are_told_apart_by_folder(net: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = save_chain(tmp_path / "other" / "net.onnx", CONVS, shape=(1, 3, 32, 32))
    labels = [profiled.label for profiled in profile_files([net, twin], QUICK).profiles]
    assert labels == ["net", "other/net"]


def test_an_engines_layers_are_read_by_tensorrts_profiler(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = pytest.importorskip("bench.profile.tensorrt_times")
    asked: dict[str, Any] = {}

    def layers(models: Mapping[str, Path], **options: Any) -> dict[str, dict[str, float]]:
        asked.update(options)
        layer = "/model.1/conv/Conv + PWN(/model.1/act/Sigmoid)"
        return {label: {layer: 2.0, "Reformatting CopyNode for x": 1.0} for label in models}

    class Engine:
        runtime = "TensorRT 10.3"

        def __enter__(self) -> Engine:
            return self

        def __exit__(self, *exc: object) -> None: ...

        def infer(self) -> None: ...

    monkeypatch.setattr(times, "tensorrt_node_times", layers)
    monkeypatch.setattr(Entry, "ready", lambda entry, settings: Engine())
    engine = net.with_suffix(".engine")
    engine.write_bytes(b"an engine")
    settings = Settings(device="jetson", index=1, min_seconds=0, min_count=1)
    [found] = profile_files([engine], settings, TENSORRT).profiles
    assert [(row.module, row.ms) for row in found.rows] == [("model.1", 2), ("layout changes", 1)]
    assert (found.sum_ms, found.runtime, asked["index"]) == (3, "TensorRT 10.3", 1)
    assert found.latency_ms > 0


def test_open_shapes_need_one(tmp_path: Path) -> None:
    path = save_chain(tmp_path / "net.onnx", CONVS, shape=(1, 3, "h", "w"))
    code, _, error = profile(str(path))
    assert code == 2
    assert "leaves dimensions of its input 'images' open" in error
    assert profile(str(path), "--shape", "1,3,8,8")[0] == 0


def test_a_net_of_matrix_products_alone_is_profiled(tmp_path: Path) -> None:
    builder = Builder()
    weight = builder.constant("weight", np.ones((8, 6), np.float32))
    builder.add("MatMul", ["images", weight], "out", name="/model.0/MatMul")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 4, 8), TensorProto.FLOAT)
    code, text, _ = profile(str(path))
    assert code == 0
    assert "matmul" in text


def test_a_net_whose_work_is_unknown_still_has_times(tmp_path: Path) -> None:
    builder = Builder()
    builder.add("Relu", ["images"], "out", name="/model.0/Relu")
    path = builder.save(tmp_path / "relu.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT)
    code, text, _ = profile(str(path))
    assert code == 0
    assert "model.0" in text
    assert "without MACs and kinds: " in text


def test_faults_are_told_in_one_line(net: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(net.read_bytes()[:-40])
    builder = Builder()
    builder.nodes.append(helper.make_node("Magic", ["images"], ["odd"], name="m", domain="my.ops"))
    out = builder.conv(Conv("stem", 3, 8), "odd")
    custom = builder.save(tmp_path / "custom.onnx", [out], (1, 3, 8, 8), TensorProto.FLOAT)
    for arguments, message in {
        (str(damaged),): "damaged.onnx",
        (str(tmp_path / "gone.onnx"),): "gone.onnx",
        (str(custom),): "my.ops",
        (str(net),) * 3: "profile one, or two",
        (str(net), "--runtime", "torch"): "does not tell the times of layers",
        (str(net), "--device", "cuda"): "on the CPU alone",
        (str(tmp_path / "net.tflite"),): "net.tflite",
    }.items():
        code, _, error = profile(*arguments)
        assert (code, "Traceback" in error) == (2, False), arguments
        assert message in error
