"""Which runtime takes which file on which device, and what is said where none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.entries import entries_of, usual_runtime
from bench.errors import BenchError
from bench.settings import Settings


@pytest.mark.parametrize(
    ("name", "device", "runtime"),
    [
        ("a.onnx", "cpu", "onnxruntime"),
        ("a.onnx", "cuda", "onnxruntime"),
        ("a.xml", "cpu", "openvino"),
        ("a.engine", "cuda", "tensorrt"),
        ("a.engine", "jetson", "tensorrt"),
        ("a.torchscript", "jetson", "torch"),
        ("a.pt", "cpu", "torch"),
    ],
)
def test_the_suffix_says_what_runs_a_file(name: str, device: str, runtime: str) -> None:
    assert usual_runtime(Path(name), device) == runtime


def test_files_without_a_usual_runtime_are_told_what_to_do() -> None:
    with pytest.raises(BenchError, match=r"a\.tflite': the bench reads \.onnx, \.xml"):
        usual_runtime(Path("a.tflite"), "cpu")
    with pytest.raises(BenchError, match=r"compress engine a\.onnx.*--runtime onnxruntime"):
        usual_runtime(Path("a.onnx"), "jetson")


@pytest.mark.parametrize(
    ("name", "runtime", "device"),
    [
        ("a.onnx", "openvino", "cuda"),
        ("a.xml", "openvino", "jetson"),
        ("a.engine", "tensorrt", "cpu"),
        ("a.onnx", "onnxruntime-tensorrt", "cpu"),
    ],
)
def test_runtimes_are_held_to_their_devices(name: str, runtime: str, device: str) -> None:
    with pytest.raises(BenchError, match=rf"{runtime} does not run on --device {device}, but on"):
        entries_of([Path(name)], Settings(device=device), [runtime])


def test_checkpoints_need_somebody_who_loads_them() -> None:
    def load(path: Path, settings: Settings) -> Any:
        return path, settings.device

    with pytest.raises(BenchError, match=r"compress bench .*yolo-compress\[train\]"):
        entries_of([Path("a.pt")], Settings())
    [(label, entry)] = entries_of([Path("a.pt")], Settings(), loaders={"torch": load}).items()
    assert label == "a@torch"
    assert entry.ready(Settings()) == (Path("a.pt"), "cpu")
    [entry] = entries_of([Path("a.x")], Settings(), ["mine"], loaders={"mine": load}).values()
    assert entry.ready(Settings()) == (Path("a.x"), "cpu")


@pytest.mark.parametrize(
    ("name", "runtime", "device", "kind"),
    [
        ("a.onnx", "onnxruntime", "jetson", ("OnnxRuntime", "cuda")),
        ("a.onnx", "onnxruntime", "cpu", ("OnnxRuntime", "cpu")),
        ("a.onnx", "onnxruntime-tensorrt", "cuda", ("OnnxRuntime", "tensorrt")),
        ("a.xml", "openvino", "cpu", ("OpenVinoCpu", None)),
        ("a.engine", "tensorrt", "jetson", ("TensorRtEngine", None)),
        ("a.torchscript", "torch", "cpu", ("TorchModule", None)),
    ],
)
def test_an_entry_is_put_into_its_runtime(
    name: str, runtime: str, device: str, kind: tuple[str, str | None]
) -> None:
    settings = Settings(device=device, index=1, shape=[2, 3, 8, 8])
    [entry] = entries_of([Path(name)], settings, [runtime]).values()
    ready: Any = entry.ready(settings)
    assert (type(ready).__name__, getattr(ready, "_provider", None)) == kind
    assert getattr(ready, "_index", 1) == 1
    assert ready._shape == [2, 3, 8, 8]
