"""Which devices this version measures on, said plainly for those it does not."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError

_WORKS_TODAY = (
    "This version measures only on 'cpu' (ONNX Runtime). Use device cpu, or on the machine with "
    "the GPU time the exported TensorRT file with NVIDIA's own tool: trtexec --onnx=FILE --int8"
)


def require_device(name: str, root: Path = Path("/")) -> None:
    """Pass if ``name`` can be measured here; ``root`` is where ``proc`` and ``etc`` lie.

    Raises:
        BenchError: the device is unknown, not in this machine, or not implemented.
    """
    if name == "cpu":
        return
    if name == "jetson":
        missing = "" if _is_jetson(root) else " and this machine is no Jetson"
    elif name == "cuda":
        has_driver = (root / "proc/driver/nvidia/version").exists()
        missing = "" if has_driver else " and this machine has no NVIDIA driver"
    else:
        raise BenchError(f"Unknown device '{name}': choose cpu (cuda and jetson are planned).")
    raise BenchError(f"Device '{name}' is not implemented yet{missing}. {_WORKS_TODAY}")


def _is_jetson(root: Path) -> bool:
    if (root / "etc/nv_tegra_release").exists():
        return True
    model = root / "proc/device-tree/model"
    return model.is_file() and "Jetson" in model.read_text(errors="replace")
