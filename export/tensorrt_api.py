"""TensorRT's official Python API, 8.5 to 11: what differs between versions, in one place."""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Sequence
from typing import Any

from export.errors import ExportError

_OLDEST = (8, 5)
_STRONG_ONLY = (11,)  # from here the types in the file decide, and precision flags are gone
_LAST_IMPLICIT_DLA = (10, 8)  # 10.7 was the last 10.x with DLA, which knew no Q/DQ
_DLA_AGAIN = (11, 4, 1)
_SHOWN = 5


class TensorRT:
    """The module ``tensorrt``, its version, and the calls that are not the same in all versions."""

    def __init__(self, module: Any) -> None:
        """Take the imported module.

        Raises:
            ExportError: it is older than 8.5.
        """
        self.module = module
        self.version_text = str(module.__version__)
        self.version = tuple(int(part) for part in re.findall(r"\d+", self.version_text))
        if self.version < _OLDEST:
            raise ExportError(
                f"TensorRT {self.version_text} is too old: 8.5 (JetPack 5.1) or newer is needed."
            )

    @property
    def strong_only(self) -> bool:
        """Whether the types in the file always decide."""
        return self.version >= _STRONG_ONLY

    @property
    def can_be_strong(self) -> bool:
        """Whether the types in the file can decide."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def network(self, builder: Any, strong: bool) -> Any:
        """An empty network with an explicit batch, strongly typed if ``strong``."""
        kinds = self.module.NetworkDefinitionCreationFlag
        # 8.x needs the explicit batch, 10 knows nothing else, 11 no longer has the name
        names = ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if strong else [])]
        members = [getattr(kinds, name, None) for name in names]
        return builder.create_network(sum(1 << int(m) for m in members if m is not None))

    def allow(self, config: Any, int8: bool, fp16: bool) -> None:
        """Let a weakly typed network run in these precisions; FP32 it may always."""
        flags = self.module.BuilderFlag
        # PREFER_PRECISION_CONSTRAINTS would drop in silence what it cannot keep
        config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        if int8:
            config.set_flag(flags.INT8)
        if fp16:
            config.set_flag(flags.FP16)

    def node_of(self, error: Any, nodes: Sequence[str]) -> str:
        """Name of the operator that a parser error is about; 8.x tells only its index."""
        if hasattr(error, "node_name"):
            return str(error.node_name())
        index = error.node()
        return nodes[index] if 0 <= index < len(nodes) else ""

    def why_no_dla(self, quantized: bool, half: bool, fp16: bool) -> str | None:
        """Why this version cannot run such a file on a DLA core; None if it can."""
        if _LAST_IMPLICIT_DLA <= self.version < _DLA_AGAIN:
            return (
                f"TensorRT {self.version_text} has no DLA: use 8.6 to 10.7 (JetPack 6), or 11.4.1 "
                "and newer on AGX Orin"
            )
        if self.strong_only:
            return None if quantized or half else "DLA computes in INT8 and FP16: export FP16 first"
        if quantized:
            return (
                f"DLA does not take Q/DQ pairs before TensorRT 11 (this is {self.version_text}): "
                "build from the float ONNX, or turn Q/DQ into a calibration cache with NVIDIA's "
                "qdq-translator"
            )
        return None if fp16 else "DLA does not compute in FP32: allow --fp16"

    def logger(self) -> Any:
        """A logger that prints nothing and keeps what went wrong; see ``complaints``."""
        return _logger_class(self.module)()


def load_tensorrt() -> TensorRT:
    """Import ``tensorrt``.

    Raises:
        ExportError: it is missing, broken or too old.
    """
    try:
        return TensorRT(importlib.import_module("tensorrt"))
    except (ImportError, OSError) as error:
        raise ExportError(
            f"'tensorrt' cannot be imported ({error}). An engine is built on the machine that "
            "runs it: on a Jetson TensorRT comes with JetPack (sudo apt install "
            "python3-libnvinfer; make the environment with --system-site-packages), on a computer "
            "with an NVIDIA GPU: "
            "pip install 'yolo-compress[tensorrt]'."
        ) from error


def complaints(logger: Any) -> str:
    """The last errors that ``logger`` was told, as the end of a sentence."""
    return " ".join(logger.errors[-_SHOWN:]) or "TensorRT does not say why."


def gpu_name() -> str | None:
    """Name of the first NVIDIA GPU; None where no driver tells."""
    name, device = ctypes.create_string_buffer(256), ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    return None if driver.cuDeviceGetName(name, 256, device) else name.value.decode()


def _logger_class(module: Any) -> Any:
    severity = module.ILogger.Severity
    faults = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # the bindings ask for this very call
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in faults:
                self.errors.append(str(msg).strip())

    return Logger
