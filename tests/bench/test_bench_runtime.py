"""ONNX Runtime on the CPU: what it accepts, what it refuses, and that it says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from bench_graphs import Builder, Conv, save_chain
from onnx import TensorProto

from bench.errors import BenchError
from bench.runtimes.onnxruntime_cpu import OnnxRuntimeCpu

STEM = [Conv("stem", 3, 8)]


@pytest.mark.parametrize("quantized", [False, True])
def test_runs_float_and_quantized_files(tmp_path: Path, quantized: bool) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, quantized=quantized)
    with OnnxRuntimeCpu(path) as runtime:
        assert runtime.input_shape == (1, 3, 8, 8)
        runtime.infer()
        runtime.infer()


def test_runs_half_precision_input(tmp_path: Path) -> None:
    builder = Builder()
    builder.add("Relu", ["images"], "out")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT16)
    with OnnxRuntimeCpu(path) as runtime:
        runtime.infer()


def test_session_is_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Spy(onnxruntime.InferenceSession):
        def __init__(self, path: str, options: Any, providers: list[str]) -> None:
            seen.append((options, providers))
            super().__init__(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Spy)
    with OnnxRuntimeCpu(save_chain(tmp_path / "net.onnx", STEM), threads=2):
        pass
    [(options, providers)] = seen
    assert providers == ["CPUExecutionProvider"]
    assert options.intra_op_num_threads == 2
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def test_another_active_provider_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(onnxruntime.InferenceSession):
        def get_providers(self) -> list[str]:
            return ["AzureExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Elsewhere)
    with (
        pytest.raises(BenchError, match="AzureExecutionProvider"),
        OnnxRuntimeCpu(save_chain(tmp_path / "net.onnx", STEM)),
    ):
        pass


def test_open_dimensions_need_a_shape(tmp_path: Path) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, shape=("batch", 3, "height", "width"))
    with pytest.raises(BenchError, match=r"net\.onnx.*'images' open.*Give a shape"):
        OnnxRuntimeCpu(path).__enter__()
    with OnnxRuntimeCpu(path, shape=(2, 3, 16, 8)) as runtime:
        runtime.infer()
        assert runtime.input_shape == (2, 3, 16, 8)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8), (1, 3, 0, 8)])
def test_a_shape_that_does_not_fit_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, shape=(1, 3, "height", "width"))
    with pytest.raises(BenchError, match="does not fit"):
        OnnxRuntimeCpu(path, shape=shape).__enter__()


def test_a_shape_that_fails_inside_the_net_is_one_sentence(tmp_path: Path) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, shape=(1, "channels", 8, 8))
    with (
        OnnxRuntimeCpu(path, shape=(1, 5, 8, 8)) as runtime,
        pytest.raises(BenchError, match=r"net\.onnx' fails in ONNX Runtime.*\[1, 5, 8, 8\]"),
    ):
        runtime.infer()


@pytest.mark.parametrize("content", [b"", b"not a net", None], ids=["empty", "text", "truncated"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(BenchError, match=r"net\.onnx' cannot be loaded.*export it again"):
        OnnxRuntimeCpu(path).__enter__()


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"gone\.onnx' does not exist"):
        OnnxRuntimeCpu(tmp_path / "gone.onnx").__enter__()
    with pytest.raises(BenchError, match=r"net\.engine' is not an \.onnx file"):
        OnnxRuntimeCpu(tmp_path / "net.engine").__enter__()


def test_inputs_that_are_no_image_are_refused(tmp_path: Path) -> None:
    builder = Builder()
    builder.add("Relu", ["images"], "out")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.INT32)
    with pytest.raises(BenchError, match=r"'images' as tensor\(int32\)"):
        OnnxRuntimeCpu(path).__enter__()


def test_without_onnxruntime_the_message_holds_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BenchError, match=r"pip install 'yolo-compress\[train\]'"):
        OnnxRuntimeCpu(tmp_path / "net.onnx").__enter__()
