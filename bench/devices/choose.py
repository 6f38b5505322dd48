"""The device that a run asks for."""

from __future__ import annotations

from bench.devices.base import Device
from bench.errors import BenchError

DEVICES = ("cpu", "cuda", "jetson")


def device_of(name: str, index: int = 0) -> Device:
    """The device ``name`` of this machine; ``index`` counts its GPUs.

    Raises:
        BenchError: it is unknown or not there; says what to do.
    """
    if name == "cpu":
        from bench.devices.cpu import CpuDevice

        return CpuDevice()
    if name == "cuda":
        from bench.devices.cuda import CudaDevice

        return CudaDevice(index)
    if name == "jetson":
        from bench.devices.jetson import JetsonDevice

        return JetsonDevice()
    raise BenchError(f"Unknown device '{name}': choose {', '.join(DEVICES)}.")
