"""OpenVINO on the CPU: what it reads, what it refuses, and how it stands beside ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_graphs import Builder, Conv, save_chain
from onnx import TensorProto
from typer.testing import CliRunner

import bench.run
from bench.errors import BenchError
from bench.results.text import render
from bench.run import bench_files
from bench.runtimes.onnxruntime import OnnxRuntime
from bench.runtimes.openvino_cpu import OpenVinoCpu
from bench.settings import Settings
from compress.cli import app

openvino = pytest.importorskip("openvino")

STEM = [Conv("stem", 3, 8)]
SHORT = Settings(min_seconds=0, min_count=1, warmup_seconds=0, energy_seconds=0)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", STEM)


def save_ir(net: Path) -> Path:
    path = net.with_suffix(".xml")
    openvino.save_model(openvino.Core().read_model(str(net)), str(path))
    return path


@pytest.mark.parametrize("quantized", [False, True])
def test_runs_float_and_quantized_files(tmp_path: Path, quantized: bool) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, quantized=quantized)
    with OpenVinoCpu(path) as runtime:
        assert runtime.input_shape == (1, 3, 8, 8)
        assert runtime.runtime.startswith("OpenVINO 20")
        assert runtime.float_type in {"f32", "bf16", "f16"}
        assert (runtime.device, runtime.notes, runtime.parts_ns()) == ("CPU", [], {})
        runtime.infer()
        assert runtime.outputs()[0].any(), "random values to begin with"
        for value in (1.0, 2.0):
            runtime.feed(np.full((1, 3, 8, 8), value, np.float32))
            runtime.infer()
            [out] = runtime.outputs()
            assert out.shape == (1, 8, 8, 8)
            assert np.allclose(out, 3 * (0.02 if quantized else 0.1) * value, rtol=0.03)


def test_reads_an_ir_and_counts_its_weights(net: Path) -> None:
    path = save_ir(net)
    [row] = bench_files([path], SHORT, runtimes=["openvino"])["rows"]
    weights = path.with_suffix(".bin").read_bytes()
    assert row["bytes"] == path.stat().st_size + len(weights)
    assert row["sha256"] == hashlib.sha256(path.read_bytes() + weights).hexdigest()
    path.with_suffix(".bin").unlink()
    with pytest.raises(BenchError, match=r"net\.bin' is missing: an IR is two files"):
        OpenVinoCpu(path).__enter__()


def test_the_request_is_the_one_asked_for(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Spy(openvino.Core):  # type: ignore[misc]
        def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> Any:
            compiled = super().compile_model(model, device, settings)
            seen.append((device, compiled))
            return compiled

    monkeypatch.setattr(openvino, "Core", Spy)
    with OpenVinoCpu(net, threads=1) as runtime:
        kind = runtime.float_type
    [(device, compiled)] = seen
    assert device == "CPU"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert str(compiled.get_property("PERFORMANCE_HINT")).endswith("LATENCY")
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == kind


def test_open_dimensions_need_a_shape(tmp_path: Path) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, shape=("batch", 3, "height", "width"))
    with pytest.raises(BenchError, match=r"net\.onnx.*'images' open.*Give a shape"):
        OpenVinoCpu(path).__enter__()
    with OpenVinoCpu(path, shape=(2, 3, 16, 8)) as runtime:
        runtime.infer()
        assert runtime.input_shape == (2, 3, 16, 8)
    with pytest.raises(BenchError, match="does not fit"):
        OpenVinoCpu(path, shape=(1, 4, 8, 8)).__enter__()


@pytest.mark.parametrize("content", [b"not a net", None], ids=["text", "truncated"])
def test_damaged_files_are_refused_by_name(net: Path, content: bytes | None) -> None:
    net.write_bytes(net.read_bytes()[:-40] if content is None else content)
    with pytest.raises(BenchError, match=r"net\.onnx' cannot be (loaded|compiled)"):
        OpenVinoCpu(net).__enter__()


def test_missing_and_foreign_files_are_refused(net: Path) -> None:
    with pytest.raises(BenchError, match=r"gone\.onnx' does not exist"):
        OpenVinoCpu(net.with_name("gone.onnx")).__enter__()
    with pytest.raises(BenchError, match=r"net\.engine' is neither \.onnx nor \.xml"):
        OpenVinoCpu(net.with_suffix(".engine")).__enter__()
    with pytest.raises(BenchError, match=r"net\.xml' is not an \.onnx file"):
        OnnxRuntime(net.with_suffix(".xml")).__enter__()


def test_inputs_that_are_no_image_are_refused(tmp_path: Path) -> None:
    builder = Builder()
    builder.add("Relu", ["images"], "out")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.INT32)
    with pytest.raises(BenchError, match="'images' as i32"):
        OpenVinoCpu(path).__enter__()


def test_without_openvino_the_message_holds_the_command(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BenchError, match=r"pip install 'yolo-compress\[openvino\]'"):
        OpenVinoCpu(net).__enter__()


def test_one_file_in_two_runtimes_is_one_table(net: Path) -> None:
    result = bench_files([net, net], SHORT, runtimes=["onnxruntime", "openvino"])
    assert [row["label"] for row in result["rows"]] == ["net", "net@openvino"]
    text = render(result)
    for row in result["rows"]:
        assert any(row["label"] in line and row["runtime"] in line for line in text.splitlines())
    assert json.loads(json.dumps(result)) == result


def test_other_float_types_are_warned_of(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoCpu, "float_type", "bf16")
    monkeypatch.setattr(bench.run, "measure", lambda calls, **_: {name: [9] * 64 for name in calls})
    result = bench_files([net, net], runtimes=["onnxruntime", "openvino"])
    [warning] = result["warnings"]
    assert "in bf16, not f32" in warning
    assert "'net@openvino'" in warning
    assert "'net'" not in warning


@pytest.mark.parametrize(
    ("runtimes", "message"),
    [(["tflite"], "'tflite' is not known; known are onnxruntime"), (["openvino"] * 2, "1 files")],
)
def test_runtimes_that_do_not_fit_are_refused(net: Path, runtimes: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        bench_files([net], runtimes=runtimes)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime,openvino"])
def test_command_takes_one_runtime_or_one_a_file(net: Path, runtime: str) -> None:
    second = save_chain(net.with_name("second.onnx"), STEM)
    options = ["--runtime", runtime, "--min-seconds", "0", "--min-count", "1", "--json"]
    done = CliRunner().invoke(app, ["bench", str(net), str(second), *options])
    assert done.exit_code == 0, done.output
    names = [row["runtime"].split()[0] for row in json.loads(done.stdout)["rows"]]
    assert names == ["ONNX" if "," in runtime else "OpenVINO", "OpenVINO"]
