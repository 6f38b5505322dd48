"""ONNX Runtime on the CPU: what it accepts, what it gives, what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bench_graphs import Builder, Conv, save_chain
from onnx import TensorProto

from bench.errors import BenchError
from bench.runtimes.onnxruntime import OnnxRuntime

STEM = [Conv("stem", 3, 8)]


@pytest.mark.parametrize("quantized", [False, True])
def test_runs_float_and_quantized_files(tmp_path: Path, quantized: bool) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, quantized=quantized)
    with OnnxRuntime(path) as runtime:
        assert runtime.input_shape == (1, 3, 8, 8)
        runtime.infer()
        runtime.infer()


def test_runs_half_precision_input(tmp_path: Path) -> None:
    builder = Builder()
    builder.add("Relu", ["images"], "out")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT16)
    with OnnxRuntime(path) as runtime:
        runtime.feed(np.full((1, 3, 8, 8), 0.5, np.float32))
        runtime.infer()
        [out] = runtime.outputs()
        assert (out.dtype, runtime.float_type) == (np.float16, "f16")
        assert (out == 0.5).all()


def test_outputs_follow_what_is_fed(tmp_path: Path) -> None:
    with OnnxRuntime(save_chain(tmp_path / "net.onnx", STEM)) as runtime:
        assert (runtime.device, runtime.float_type, runtime.notes) == ("CPU", "f32", [])
        assert runtime.parts_ns() == {}
        runtime.infer()
        assert runtime.outputs()[0].any(), "random values to begin with"
        for value in (1.0, 2.0):
            runtime.feed(np.full((1, 3, 8, 8), value, np.float32))
            runtime.infer()
            [out] = runtime.outputs()
            assert out.shape == (1, 8, 8, 8)
            assert np.allclose(out, 3 * 0.1 * value)
        with pytest.raises(ValueError, match="for an input of shape"):
            runtime.feed(np.zeros((3, 8, 8), np.float32))


def test_outputs_whose_size_depends_on_the_image(tmp_path: Path) -> None:
    builder = Builder()
    builder.add("Relu", ["images"], "relu")
    builder.add("NonZero", ["relu"], "where")
    builder.add("Cast", ["where"], "out", to=TensorProto.FLOAT)
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT)
    with OnnxRuntime(path) as runtime:
        for found in (5, 0, 9):
            values = np.zeros((1, 3, 8, 8), np.float32)
            values.flat[:found] = 1
            runtime.feed(values)
            runtime.infer()
            assert runtime.outputs()[0].shape == (4, found)


def test_session_is_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Spy(onnxruntime.InferenceSession):
        def __init__(self, path: str, options: Any, providers: list[str], **more: int) -> None:
            seen.append((options, providers, more))
            super().__init__(path, options, providers=providers, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Spy)
    with OnnxRuntime(save_chain(tmp_path / "net.onnx", STEM), threads=2):
        pass
    [(options, providers, more)] = seen
    assert more == {"enable_fallback": 0}
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
        OnnxRuntime(save_chain(tmp_path / "net.onnx", STEM)),
    ):
        pass


def test_open_dimensions_need_a_shape(tmp_path: Path) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, shape=("batch", 3, "height", "width"))
    with pytest.raises(BenchError, match=r"net\.onnx.*'images' open.*Give a shape"):
        OnnxRuntime(path).__enter__()
    with OnnxRuntime(path, shape=(2, 3, 16, 8)) as runtime:
        runtime.infer()
        assert runtime.input_shape == (2, 3, 16, 8)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8), (1, 3, 0, 8)])
def test_a_shape_that_does_not_fit_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, shape=(1, 3, "height", "width"))
    with pytest.raises(BenchError, match="does not fit"):
        OnnxRuntime(path, shape=shape).__enter__()


def test_a_shape_that_fails_inside_the_net_is_one_sentence(tmp_path: Path) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM, shape=(1, "channels", 8, 8))
    with (
        OnnxRuntime(path, shape=(1, 5, 8, 8)) as runtime,
        pytest.raises(BenchError, match=r"net\.onnx' fails in ONNX Runtime.*\[1, 5, 8, 8\]"),
    ):
        runtime.infer()


@pytest.mark.parametrize("content", [b"", b"not a net", None], ids=["empty", "text", "truncated"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = save_chain(tmp_path / "net.onnx", STEM)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(BenchError, match=r"net\.onnx' cannot be loaded.*export it again"):
        OnnxRuntime(path).__enter__()


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"gone\.onnx' does not exist"):
        OnnxRuntime(tmp_path / "gone.onnx").__enter__()
    with pytest.raises(BenchError, match=r"net\.engine' is not an \.onnx file"):
        OnnxRuntime(tmp_path / "net.engine").__enter__()


def test_inputs_that_are_no_image_are_refused(tmp_path: Path) -> None:
    builder = Builder()
    builder.add("Relu", ["images"], "out")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.INT32)
    with pytest.raises(BenchError, match=r"'images' as tensor\(int32\)"):
        OnnxRuntime(path).__enter__()


def test_without_onnxruntime_the_message_holds_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BenchError, match=r"pip install 'yolo-compress\[train\]'"):
        OnnxRuntime(tmp_path / "net.onnx").__enter__()
