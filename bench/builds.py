"""Which files have to become an engine before they can be measured."""

from __future__ import annotations

from pathlib import Path

from bench.entries import TENSORRT

_GPU_DEVICES = ("cuda", "jetson")


def needs_engine(path: Path, runtime: str | None, device: str) -> bool:
    """Whether TensorRT is to run the ONNX file ``path``; ``runtime`` None where nobody said.

    On a Jetson it does so unless told otherwise.
    """
    wanted = runtime == TENSORRT or (runtime is None and device == "jetson")
    return path.suffix == ".onnx" and device in _GPU_DEVICES and wanted
