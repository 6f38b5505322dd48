"""An NVIDIA GPU on a card of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from bench.devices.nvml import HEAT, POWER_LIMIT, SLOWED_DOWN, Nvml, words_of
from bench.devices.watch import seen_under_load, watch
from bench.errors import BenchError
from bench.power import CounterMeter, PowerMeter, SampledMeter

if TYPE_CHECKING:
    from bench.devices.base import Look

_NOTICEABLE_CLOCK = 0.02
_SM, _MEMORY = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_GPU_SENSOR = 0  # NVML_TEMPERATURE_GPU


class CudaDevice:
    """GPU ``index`` as the driver tells of it. Make it before anything computes on the GPU.

    Raises:
        BenchError: pynvml, the driver or the GPU is missing.
    """

    name = "cuda"

    def __init__(self, index: int = 0) -> None:
        self._nvml = Nvml()
        self._gpu, self._index = self._nvml.gpu(index), index
        self._others = self._gpu.processes() - {os.getpid()}

    def facts(self) -> dict[str, Any]:
        """Model, driver, memory, limits of power and clocks, PCIe link."""
        ask, cuda = self._gpu.ask, self._nvml.ask("nvmlSystemGetCudaDriverVersion_v2")
        capability = ask("nvmlDeviceGetCudaComputeCapability")
        memory, limit = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "gpu": ask("nvmlDeviceGetName"),
            "index": self._index,
            "nvidia_smi_index": ask("nvmlDeviceGetIndex"),
            "driver": self._nvml.ask("nvmlSystemGetDriverVersion"),
            "driver_cuda": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            "compute_capability": capability and ".".join(map(str, capability)),
            "memory_bytes": memory and int(memory.total),
            "power_limit_watts": limit and limit / 1000,
            "persistence": _switch(ask("nvmlDeviceGetPersistenceMode")),
            "max_sm_mhz": ask("nvmlDeviceGetMaxClockInfo", _SM),
            "max_memory_mhz": ask("nvmlDeviceGetMaxClockInfo", _MEMORY),
            "application_sm_mhz": ask("nvmlDeviceGetApplicationsClock", _SM),
            "pcie_generation": ask("nvmlDeviceGetCurrPcieLinkGeneration"),
            "pcie_width": ask("nvmlDeviceGetCurrPcieLinkWidth"),
            "max_pcie_generation": ask("nvmlDeviceGetMaxPcieLinkGeneration"),
            "max_pcie_width": ask("nvmlDeviceGetMaxPcieLinkWidth"),
            "ecc": _switch((ask("nvmlDeviceGetEccMode") or [None])[0]),
            "mig": _switch((ask("nvmlDeviceGetMigMode") or [None])[0]),
            "other_processes": len(self._others),
        }

    def state(self) -> dict[str, Any]:
        """Clocks, temperature, power, and what holds the clock down."""
        reasons = self._gpu.reasons()
        return {
            **self._look(),
            "memory_mhz": self._gpu.ask("nvmlDeviceGetClockInfo", _MEMORY),
            "clock_held_by": None if reasons is None else words_of(reasons),
        }

    def watched(self) -> AbstractContextManager[Sequence[Look]]:
        """``sm_mhz``, ``gpu_c``, ``watts``, and the bits of why it is ``slowed_down``."""
        return watch(self._look)

    def doubts(
        self, before: Mapping[str, Any], after: Mapping[str, Any], trace: Sequence[Look]
    ) -> list[str]:
        """Other users of the GPU, what slowed it down, and clocks that moved."""
        doubts = []
        if self._others:
            pids = ", ".join(map(str, sorted(self._others)))
            doubts.append(f"other processes use this GPU ({pids}): stop them.")
        slowed = 0
        for look in (before, after, *trace):
            slowed |= int(look.get("slowed_down") or 0)
        doubts += [_slowed_doubt(slowed)] if slowed else self._clock_doubts(trace)
        if not self._nvml.order_is_certain():
            doubts.append(
                "GPUs of several models: CUDA may count them otherwise than nvidia-smi and this "
                "table of facts: export CUDA_DEVICE_ORDER=PCI_BUS_ID."
            )
        return doubts

    def power_meter(self) -> PowerMeter | None:
        """The counter of energy, else readings of power."""
        if self._gpu.joules() is not None:
            return CounterMeter("NVML: the card", self._joules)
        if self._gpu.watts() is not None:
            return SampledMeter("NVML: the card", lambda: nullcontext(self._gpu.watts))
        return None

    def _look(self) -> dict[str, float | None]:
        reasons = self._gpu.reasons()
        return {
            "sm_mhz": self._gpu.ask("nvmlDeviceGetClockInfo", _SM),
            "gpu_c": self._gpu.ask("nvmlDeviceGetTemperature", _GPU_SENSOR),
            "watts": self._gpu.watts(),
            "slowed_down": None if reasons is None else reasons & SLOWED_DOWN,
        }

    def _clock_doubts(self, trace: Sequence[Look]) -> list[str]:
        clocks = seen_under_load(trace, "sm_mhz")
        if not clocks or min(clocks) >= max(clocks) * (1 - _NOTICEABLE_CLOCK):
            return []
        low, high = int(min(clocks)), int(max(clocks))
        return [
            f"the GPU's clock moved between {low} and {high} MHz meanwhile: lock it, "
            f"sudo nvidia-smi -i {self._gpu.ask('nvmlDeviceGetIndex')} -lgc {low} (-rgc undoes it)."
        ]

    def _joules(self) -> float:
        joules = self._gpu.joules()
        if joules is None:
            raise BenchError("The GPU stopped telling its energy.")
        return joules


def _slowed_doubt(reasons: int) -> str:
    mend = "lock a clock that it holds: sudo nvidia-smi -lgc MHZ"
    if reasons & HEAT:
        mend = "cool it"
    elif reasons == POWER_LIMIT:
        mend = "raise its limit (sudo nvidia-smi -pl WATTS), or lock a lower clock (-lgc MHZ)"
    return f"the GPU was slowed down meanwhile ({', '.join(words_of(reasons))}): {mend}."


def _switch(value: int | None) -> bool | None:
    return None if value is None else bool(value)
