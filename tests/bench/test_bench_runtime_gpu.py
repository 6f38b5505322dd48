"""ONNX Runtime's GPU providers: the one that computes is the one asked for, or there is an error.

Sessions compute on the CPU here; what they say of providers is made up, in the form of the real
ones (seen in onnxruntime-gpu 1.31.1).
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bench_graphs import Conv, save_chain

from bench.errors import BenchError
from bench.runtimes.onnxruntime import OnnxRuntime

STEM = [Conv("stem", 3, 8)]
NAMES = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
CPU = "CPUExecutionProvider"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", STEM)


def install(
    monkeypatch: pytest.MonkeyPatch,
    active: list[str],
    ran_in: Mapping[str, str],
    options: Mapping[str, Any] | None = None,
) -> list[Any]:
    """A build with GPU providers: operator kind -> provider. Returns what sessions were given."""
    asked: list[Any] = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path: str, settings: Any, providers: Any, **more: Any) -> None:
            asked.append(providers)
            super().__init__(path, settings, providers=[CPU], **more)

        def get_providers(self) -> list[str]:
            return active

        def get_provider_options(self) -> Any:
            return options or {}

        def end_profiling(self) -> str:
            profile = Path(super().end_profiling())
            events = json.loads(profile.read_text())
            for event in events:
                if "provider" in event.get("args", {}):
                    event["args"]["provider"] = ran_in.get(event["args"]["op_name"], active[0])
            profile.write_text(json.dumps(events))
            return str(profile)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    available = [*NAMES.values(), CPU]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    return asked


@pytest.mark.parametrize(("provider", "title"), [("cuda", "CUDA"), ("tensorrt", "TensorRT")])
def test_the_active_provider_is_named(
    net: Path, monkeypatch: pytest.MonkeyPatch, provider: str, title: str
) -> None:
    asked = install(monkeypatch, [NAMES[provider], CPU], {})
    with OnnxRuntime(net, provider=provider, index=1) as runtime:
        assert runtime.runtime == f"ONNX Runtime {onnxruntime.__version__} ({title})"
        assert runtime.device == "GPU 1"  # no driver here
        assert runtime.float_type == ("f16" if provider == "tensorrt" else "f32")
        assert runtime.notes == []
        runtime.feed(np.ones((1, 3, 8, 8), np.float32))
        runtime.infer()
        assert np.allclose(runtime.outputs()[0], 0.3)
    [[(first, options), *rest]] = asked
    assert (first, options["device_id"], rest[-1]) == (NAMES[provider], "1", CPU)
    assert not list(Path.cwd().glob("placement*"))


def test_tensorrt_is_let_into_int8_by_files_that_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = install(monkeypatch, [NAMES["tensorrt"], NAMES["cuda"], CPU], {})
    for quantized in (False, True):
        path = save_chain(tmp_path / f"{quantized}.onnx", STEM, quantized=quantized)
        with OnnxRuntime(path, provider="tensorrt"):
            pass
    options = [providers[0][1] for providers in asked]
    assert all(option["trt_fp16_enable"] == "1" for option in options)
    assert ["trt_int8_enable" in option for option in options] == [False, True]


def test_operators_that_ran_elsewhere_are_noted(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        monkeypatch,
        [NAMES["cuda"], CPU],
        {"ReorderOutput": CPU},
        {NAMES["cuda"]: {"use_tf32": "1"}},
    )
    with OnnxRuntime(net, provider="cuda") as runtime:
        outside, tf32 = runtime.notes
    assert outside.endswith("operators ran outside of the CUDA provider: CPU: ReorderOutput 1")
    assert "TF32" in tf32


def test_a_provider_that_computes_nothing_is_refused(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        monkeypatch, [NAMES["cuda"], CPU], dict.fromkeys(("Conv", "Relu", "ReorderOutput"), CPU)
    )
    with pytest.raises(BenchError, match=r"no operator ran in the CUDA provider .*Conv 1"):
        OnnxRuntime(net, provider="cuda").__enter__()


@pytest.mark.parametrize("active", [[CPU], [CPU, NAMES["cuda"]], []])
def test_silent_fallback_is_refused_with_its_cause(
    net: Path, monkeypatch: pytest.MonkeyPatch, active: list[str]
) -> None:
    install(monkeypatch, active, {})
    with pytest.raises(BenchError) as caught:
        OnnxRuntime(net, provider="cuda").__enter__()
    told = str(caught.value)
    assert "was to run in CUDAExecutionProvider, but ONNX Runtime made" in told
    assert "libonnxruntime_providers_cuda.so: cannot open shared object" in told
    assert "LD_LIBRARY_PATH" in told


def test_libraries_that_are_there_leave_the_driver_to_blame(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, [CPU], {})
    monkeypatch.setattr("ctypes.CDLL", lambda path: None)
    with pytest.raises(BenchError, match="Its libraries are there: check with nvidia-smi"):
        OnnxRuntime(net, provider="cuda").__enter__()


@pytest.mark.parametrize("provider", NAMES)
def test_a_build_without_the_provider_says_what_to_install(net: Path, provider: str) -> None:
    with pytest.raises(BenchError, match=rf"has no {NAMES[provider]} here, only .*CPU") as caught:
        OnnxRuntime(net, provider=provider).__enter__()
    assert "onnxruntime-gpu" in str(caught.value)


def test_two_builds_over_each_other_are_told(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3")
    with pytest.raises(BenchError, match="Both onnxruntime and onnxruntime-gpu are installed"):
        OnnxRuntime(net, provider="cuda").__enter__()


def test_a_provider_that_raises_is_one_sentence(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [CPU], {})

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Please install TensorRT libraries")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(BenchError, match=r"loaded by .*\(TensorRT\): Please .*providers_tensorrt"):
        OnnxRuntime(net, provider="tensorrt").__enter__()


def test_a_damaged_file_is_told_from_a_missing_library(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, [NAMES["cuda"], CPU], {})
    monkeypatch.setattr("ctypes.CDLL", lambda path: None)
    net.write_bytes(net.read_bytes()[:-40])
    with pytest.raises(BenchError, match=r"\(CUDA\): .* If the file is truncated"):
        OnnxRuntime(net, provider="cuda").__enter__()
