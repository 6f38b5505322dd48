"""ONNX Runtime's providers: which to ask for, and which one really computes."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from bench.errors import BenchError

CPU, CUDA, TENSORRT = "cpu", "cuda", "tensorrt"
_NAMES = {
    CPU: "CPUExecutionProvider",
    CUDA: "CUDAExecutionProvider",
    TENSORRT: "TensorrtExecutionProvider",
}
_TITLES = {_NAMES[CPU]: "CPU", _NAMES[CUDA]: "CUDA", _NAMES[TENSORRT]: "TensorRT"}
_KERNEL = "_kernel_time"
_BUILDS = ("onnxruntime", "onnxruntime-gpu")
_GET = (
    "Install the build with GPU providers (on a computer: pip install onnxruntime-gpu; on a "
    "Jetson: NVIDIA's wheel for its JetPack), or build an engine: compress engine FILE.onnx."
)


def suffix_of(provider: str) -> str:
    """What stands behind the runtime's version, such as `` (CUDA)``."""
    return "" if provider == CPU else f" ({_TITLES[_NAMES[provider]]})"


def wanted_providers(provider: str, index: int, path: Path) -> list[Any]:
    """What to give to a session, the fallbacks that ONNX Runtime adds anyway behind it."""
    on_gpu = {"device_id": str(index)}
    if provider == CPU:
        return [_NAMES[CPU]]
    if provider == CUDA:
        return [(_NAMES[CUDA], on_gpu), _NAMES[CPU]]
    precision = {"trt_fp16_enable": "1"}
    if b"QuantizeLinear" in path.read_bytes():  # without Q/DQ it would ask for a calibration table
        precision["trt_int8_enable"] = "1"
    return [(_NAMES[TENSORRT], {**on_gpu, **precision}), (_NAMES[CUDA], on_gpu), _NAMES[CPU]]


def check_available(runtime: Any, provider: str) -> None:
    """Refuse a build of ONNX Runtime that lacks ``provider``; let it find pip's CUDA libraries.

    Raises:
        BenchError: says which builds are installed, and what to do.
    """
    available = list(runtime.get_available_providers())
    if _NAMES[provider] not in available:
        raise BenchError(
            f"ONNX Runtime {runtime.__version__} has no {_NAMES[provider]} here, only "
            f"{', '.join(available)}. {_remedy()}"
        )
    if provider != CPU and hasattr(runtime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses
            runtime.preload_dlls()


def check_active(runtime: Any, session: Any, provider: str, path: Path) -> None:
    """Refuse a session that took another provider than it was asked for.

    Raises:
        BenchError: names what is active instead, and why if that can be found out.
    """
    active = list(session.get_providers())
    if active[:1] == [_NAMES[provider]] and (provider != CPU or len(active) == 1):
        return
    raise BenchError(
        f"'{path}' was to run in {_NAMES[provider]}, but ONNX Runtime made {active} active: its "
        f"times would be of something else. {why_inactive(runtime, provider)}"
    )


def why_inactive(runtime: Any, provider: str) -> str:
    """Why a provider did not come up, and what to do."""
    if provider == CPU:
        return "Reinstall onnxruntime in a clean environment."
    return library_fault(runtime, provider) or (
        "Its libraries are there: check with nvidia-smi that a GPU is, and that its driver is new "
        "enough for this CUDA."
    )


def library_fault(runtime: Any, provider: str) -> str:
    """Why the library of a GPU provider cannot be loaded, and what to do; empty if it can."""
    if provider == CPU:
        return ""
    library = Path(runtime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        what = "CUDA and cuDNN" if provider == CUDA else "TensorRT, CUDA and cuDNN"
        return (
            f"Its library cannot be loaded ({error}). It needs {what} of the versions it was built "
            "for: pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and cuDNN, or put the "
            "folders of what is missing into LD_LIBRARY_PATH."
        )
    return ""


def outside(profile: Path, provider: str, path: Path) -> list[str]:
    """Notes on the operators that ran elsewhere, of the profile of one run.

    Raises:
        BenchError: all of them did.
    """
    ran: Counter[tuple[str, str]] = Counter()
    for event in json.loads(profile.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            details = event.get("args", {})
            ran[details.get("provider", ""), details.get("op_name", "")] += 1
    elsewhere = {key: count for key, count in ran.items() if key[0] != _NAMES[provider]}
    title, total = _TITLES[_NAMES[provider]], sum(ran.values())
    if not elsewhere:
        return []
    listed = _listed(elsewhere)
    if len(elsewhere) == len(ran):
        raise BenchError(
            f"'{path}': no operator ran in the {title} provider although it is active ({listed})."
        )
    return [
        f"{sum(elsewhere.values())} of {total} operators ran outside of the {title} provider: "
        f"{listed}"
    ]


def _listed(ran: dict[tuple[str, str], int]) -> str:
    by_provider: dict[str, list[str]] = {}
    for (provider, kind), count in sorted(ran.items()):
        by_provider.setdefault(_TITLES.get(provider, provider), []).append(f"{kind} {count}")
    return "; ".join(f"{name}: {', '.join(kinds)}" for name, kinds in by_provider.items())


def _remedy() -> str:
    installed = [build for build in _BUILDS if _is_installed(build)]
    if len(installed) > 1:
        return (
            f"Both {' and '.join(installed)} are installed, and write over each other's files: pip "
            f"uninstall -y {' '.join(installed)}, then pip install onnxruntime-gpu."
        )
    return _GET


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
