"""The device that a run asks for."""

from __future__ import annotations

from pathlib import Path

from bench.devices.base import Device
from bench.errors import BenchError

DEVICES = ("cpu", "cuda", "jetson")


def device_of(name: str, index: int = 0, root: Path = Path("/")) -> Device:
    """The device ``name`` of this machine; ``index`` counts its GPUs.

    ``root`` is where the kernel's and the vendor's files lie, such as ``proc`` and ``sys``.

    Raises:
        BenchError: it is unknown or not there; says what to do.
    """
    if name == "cpu":
        from bench.devices.cpu import CpuDevice

        return CpuDevice(root)
    if name == "cuda":
        from bench.devices.cuda import CudaDevice

        return CudaDevice(index)
    if name == "jetson":
        from bench.devices.jetson import JetsonDevice

        return JetsonDevice(root)
    raise BenchError(f"Unknown device '{name}': choose {', '.join(DEVICES)}.")
