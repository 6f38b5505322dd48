"""From an engine file to TensorRT's engine, or to the reason why there is none."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.optional import require

_OLDEST = (8, 5)  # tensors by name and execute_async_v3; JetPack 5.1 has 8.5.2
_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
_SHOWN = 3
_SHORT = {"FP16": "f16", "BF16": "bf16", "FP32": "f32"}


def load_tensorrt(path: Path) -> Any:
    """The module ``tensorrt``, to run ``path``.

    Raises:
        BenchError: it is missing; or its engines name no tensors, and the message holds the command
            that measures the file all the same.
    """
    try:
        trt = require("tensorrt", "tensorrt")
    except BenchError as error:
        raise BenchError(
            f"{error} On a Jetson it comes with JetPack: sudo apt install python3-libnvinfer, and "
            "make the environment with --system-site-packages."
        ) from error
    version = str(trt.__version__)
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _OLDEST:
        raise BenchError(
            f"TensorRT {version} is too old for the bench, which needs 8.5 (JetPack 5.1) or newer. "
            f"NVIDIA's own tool measures here: {_TRTEXEC} --loadEngine={path} --useCudaGraph "
            "--useSpinWait"
        )
    return trt


def read_facts(path: Path) -> Mapping[str, Any]:
    """The JSON beside an engine, as ``compress engine`` writes it; empty where there is none."""
    try:
        facts = json.loads(path.with_name(f"{path.name}.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def deserialize(trt: Any, path: Path, facts: Mapping[str, Any], gpu: str) -> tuple[Any, Any]:
    """The engine in ``path``, and the logger that keeps what TensorRT complains of.

    Args:
        trt: the module ``tensorrt``.
        path: the file.
        facts: what stands beside it.
        gpu: name of this machine's GPU.

    Raises:
        BenchError: the file is damaged, or of another TensorRT version or GPU.
    """
    if path.suffix != ".engine":
        raise BenchError(f"'{path}' is not an .engine file, the one kind that TensorRT runs.")
    if not path.is_file():
        raise BenchError(f"'{path}' does not exist. Build it: compress engine FILE.onnx")
    logger = logger_of(trt)
    logger.errors.clear()
    runtime = trt.Runtime(logger)
    core = _dla_core(facts)
    if core is not None:
        runtime.DLA_core = core
    content = path.read_bytes()
    try:
        engine = runtime.deserialize_cuda_engine(plan_of(content))
    except Exception as error:  # what the bindings make of a null pointer, if anything
        raise _refusal(trt, path, content, facts, gpu, f"{error} {complaints(logger)}") from error
    if engine is None:
        raise _refusal(trt, path, content, facts, gpu, complaints(logger))
    return engine, logger


def plan_of(content: bytes) -> bytes:
    """The engine itself: Ultralytics writes a length (4 bytes, little endian) and JSON before it.

    What begins with a length that does not fit is left alone.
    """
    start = 4 + int.from_bytes(content[:4], "little")
    if content[4:5] == b"{" and content[start - 1 : start] == b"}":
        return content[start:]
    return content


def complaints(logger: Any) -> str:
    """The last errors that ``logger`` was told, as the end of a sentence."""
    return " ".join(logger.errors[-_SHOWN:]) or "TensorRT does not say why."


def float_type_of(facts: Mapping[str, Any]) -> str:
    """What the engine's float layers compute in: the narrowest type that was found building it."""
    layers = facts.get("float_layers")
    types = [
        str(layer.get("inputs"))
        for layer in (layers if isinstance(layers, list) else [])
        if isinstance(layer, dict)
    ]
    found = (short for long, short in _SHORT.items() if any(long in kinds for kinds in types))
    return next(found, "unknown")


def other_gpu(facts: Mapping[str, Any], gpu: str) -> str | None:
    """On which other GPU the engine was built; None if on this one, or nobody knows."""
    built_on = facts.get("gpu")
    return built_on if isinstance(built_on, str) and built_on != gpu else None


def _dla_core(facts: Mapping[str, Any]) -> int | None:
    settings = facts.get("settings")
    core = settings.get("dla") if isinstance(settings, dict) else None
    return core if isinstance(core, int) else None


def _refusal(
    trt: Any, path: Path, content: bytes, facts: Mapping[str, Any], gpu: str, why: str
) -> BenchError:
    version, built_by = str(trt.__version__), facts.get("tensorrt")
    built_on = other_gpu(facts, gpu)
    causes = []
    if isinstance(built_by, str) and built_by != version:
        causes.append(f"It was built by TensorRT {built_by}, and this is {version}.")
    if built_on is not None:
        causes.append(f"It was built on {built_on}, and this is {gpu}.")
    size = facts.get("bytes")
    if isinstance(size, int) and size != len(content):
        causes.append(f"It has {len(content)} bytes of the {size} that were written: truncated.")
    elif "engine_sha256" in facts and facts["engine_sha256"] != hashlib.sha256(content).hexdigest():
        causes.append("Its bytes are not those that were written: damaged or replaced.")
    if not causes:
        causes.append("It is damaged, or was built by another TensorRT version or for another GPU.")
    return BenchError(
        f"'{path}' cannot be loaded by TensorRT {version} on {gpu}. {' '.join(causes)} TensorRT "
        f"says: {why} An engine holds for one TensorRT version and one kind of GPU: build it here, "
        "with compress engine FILE.onnx"
    )


@functools.lru_cache(maxsize=1)
def logger_of(trt: Any) -> Any:
    """A logger that prints nothing and keeps errors.

    One a process: TensorRT goes on using the first that it was given, whichever comes later.
    """
    severity = trt.ILogger.Severity
    faults = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # the bindings ask for this very call
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in faults:
                self.errors.append(str(msg).strip())

    return Logger()
