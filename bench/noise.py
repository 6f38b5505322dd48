"""Why times vary: what else ran on the machine, and what shape the variation has."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.devices.machine import Machine
from bench.devices.sysfs import read_text
from bench.statistics import percentile

if TYPE_CHECKING:
    from bench.statistics import Series

_NOTICEABLE_CORES = 0.1
_NOTICEABLE_STEAL = 0.01


@dataclass(frozen=True)
class CpuSeconds:
    """CPU seconds spent up to now: by this process, by all, and by the host's other guests.

    None where the system does not tell, as only Linux does.
    """

    wall: float
    own: float
    busy: float | None
    stolen: float | None


@dataclass(frozen=True)
class Interference:
    """Cores (1.0 = one whole core) that were not ours while a measurement ran; None: unknown."""

    other_cores: float | None
    stolen_cores: float | None


def read_cpu_seconds(root: Path = Path("/")) -> CpuSeconds:
    """Read the counters of this moment; ``root`` is where ``proc`` lies."""
    wall, own = time.perf_counter(), time.process_time()
    found = re.match(r"cpu +([\d ]+)", read_text(root / "proc/stat") or "")
    if not found:
        return CpuSeconds(wall, own, busy=None, stolen=None)
    ticks = [int(count) / os.sysconf("SC_CLK_TCK") for count in found[1].split()]
    user, nice, system, _idle, _iowait, irq, softirq, stolen = (*ticks, *[0.0] * 8)[:8]
    return CpuSeconds(wall, own, busy=user + nice + system + irq + softirq, stolen=stolen)


def interference_between(before: CpuSeconds, after: CpuSeconds) -> Interference:
    """What others took of the machine between two readings."""
    if before.busy is None or after.busy is None or before.stolen is None or after.stolen is None:
        return Interference(other_cores=None, stolen_cores=None)
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
    return _others(machine, interference) or _clock_cause(samples, machine)


def likely_cause_off_cpu(machine: Machine, interference: Interference) -> str:
    """The same for what a GPU computes: of its clock and heat the device's own warnings tell."""
    return _others(machine, interference) or (
        "the GPU's clock, its heat or other work on it: lock its clocks, and see the other warnings"
    )


def _others(machine: Machine, interference: Interference) -> str:
    """What others took of the CPUs; empty if nothing to speak of."""
    if (interference.other_cores or 0.0) > _NOTICEABLE_CORES:
        return (
            f"other processes used {interference.other_cores:.1f} of {machine.logical_cores} cores "
            "meanwhile: stop them"
        )
    if (interference.stolen_cores or 0.0) > _NOTICEABLE_STEAL:
        return (
            f"the host took {interference.stolen_cores:.2f} cores from this virtual machine: "
            "measure on a machine of your own"
        )
    return ""


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
