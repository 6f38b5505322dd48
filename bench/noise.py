"""Why times vary: what else ran on the machine, and what shape the variation has."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from bench.devices.machine import Machine
from bench.statistics import Series, percentile

_BUSY = ("user", "nice", "system", "irq", "softirq")
_NOTICEABLE_CORES = 0.1
_NOTICEABLE_STEAL = 0.01


@dataclass(frozen=True)
class CpuSeconds:
    """CPU seconds spent up to now: by this process, by all, and by the host's other guests."""

    wall: float
    own: float
    busy: float
    stolen: float


@dataclass(frozen=True)
class Interference:
    """Cores (1.0 = one whole core) that were not ours while a measurement ran."""

    other_cores: float
    stolen_cores: float


def read_cpu_seconds() -> CpuSeconds:
    """Read the counters of this moment."""
    times = psutil.cpu_times()
    return CpuSeconds(
        wall=time.perf_counter(),
        own=time.process_time(),
        busy=sum(getattr(times, kind, 0.0) for kind in _BUSY),
        stolen=getattr(times, "steal", 0.0),
    )


def interference_between(before: CpuSeconds, after: CpuSeconds) -> Interference:
    """What others took of the machine between two readings."""
    wall = max(after.wall - before.wall, 1e-9)
    others = (after.busy - before.busy) - (after.own - before.own)
    return Interference(
        other_cores=round(max(others, 0.0) / wall, 3),
        stolen_cores=round((after.stolen - before.stolen) / wall, 3),
    )


def likely_cause(
    samples: Series, threads: int, machine: Machine, interference: Interference
) -> str:
    """Why ``samples`` vary, and what to do about it, as one clause. Measured causes come first."""
    if threads > machine.usable_cores:
        return f"{threads} threads share {machine.usable_cores} cores: lower the threads"
    if interference.other_cores > _NOTICEABLE_CORES:
        return (
            f"other processes used {interference.other_cores:.1f} of {machine.logical_cores} cores "
            "meanwhile: stop them"
        )
    if interference.stolen_cores > _NOTICEABLE_STEAL:
        return (
            f"the host took {interference.stolen_cores:.2f} cores from this virtual machine: "
            "measure on a machine of your own"
        )
    return _clock_cause(samples, machine)


def _clock_cause(samples: Series, machine: Machine) -> str:
    drift = _drift(samples)
    moved = f"calls became {abs(drift):.1%} {'slower' if drift > 0 else 'faster'} on the way; "
    prefix = moved if drift else ""
    if machine.governor not in (None, "performance"):
        return (
            f"{prefix}the CPU governor is '{machine.governor}': "
            "sudo cpupower frequency-set -g performance"
        )
    if prefix:
        return f"{prefix}the CPU's clock follows temperature and load: cool it, or warm up longer"
    if machine.virtual:
        return "a virtual machine, whose neighbours share its caches: repeat, or use real hardware"
    return "single slow calls, such as interrupts: measure longer"


def _drift(samples: Series) -> float:
    """Median of the last third over that of the first, less one; 0 if their bulks overlap."""
    third = max(1, len(samples) // 3)
    first, last = samples[:third], samples[-third:]
    rose = percentile(last, 25) > percentile(first, 75)
    fell = percentile(last, 75) < percentile(first, 25)
    return percentile(last, 50) / percentile(first, 50) - 1 if rose or fell else 0.0
