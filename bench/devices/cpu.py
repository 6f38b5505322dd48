"""The CPU."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.devices.cgroup import quota_cores, quota_waits
from bench.devices.kernel import growth, load_average, swap_doubts, swapped_pages
from bench.devices.machine import turbo, usable_cores
from bench.devices.rapl import rapl_meter
from bench.devices.sysfs import read_int, read_text
from bench.devices.watch import seen_under_load, watch
from bench.power import PowerMeter

if TYPE_CHECKING:
    from bench.devices.base import Look

_PACKAGE_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
_NOTICEABLE_CLOCK = 0.1


class CpuDevice:
    """This machine's CPU, as far as Linux tells of it. ``root``: where proc and sys lie."""

    name = "cpu"

    def __init__(self, root: Path = Path("/"), cores: Sequence[int] | None = None) -> None:
        """``cores``: those that this process may run on; None to ask the system."""
        self._root = root
        self._cores = list(cores) if cores is not None else usable_cores()

    def facts(self) -> dict[str, Any]:
        """The cores that may be used, their governors and clocks, and the container's quota."""
        smt = read_text(self._cpus / "smt/active")
        return {
            "cores": self._cores,
            "pinned": len(self._cores) < (os.cpu_count() or 1),
            "smt": None if smt is None else smt == "1",
            "turbo": turbo(self._root),
            "governors": self._governors(),
            "min_mhz": min(self._mhz("cpuinfo_min_freq"), default=None),
            "max_mhz": max(self._mhz("cpuinfo_max_freq"), default=None),
            "quota_cores": quota_cores(self._root),
        }

    def state(self) -> dict[str, Any]:
        """The clock now, the load, the temperature, and counters that should not rise."""
        look = self._look()
        if look["mhz"] is None:
            look["mhz"] = max(self._cpuinfo_mhz(), default=None)
        return {
            **look,
            "load": load_average(self._root),
            "throttled": self._throttled(),
            "swapped_pages": swapped_pages(self._root),
            "quota_waits": quota_waits(self._root),
        }

    def watched(self) -> AbstractContextManager[Sequence[Look]]:
        """``mhz`` of the fastest of the usable cores, and ``package_c``."""
        return watch(self._look)

    def doubts(
        self, before: Mapping[str, Any], after: Mapping[str, Any], trace: Sequence[Look]
    ) -> list[str]:
        """Throttling, a clock that moved, swapping, and a container's quota that was used up."""
        doubts = []
        throttled = growth(before, after, "throttled")
        if throttled > 0:
            doubts.append(f"the CPU throttled {throttled} times meanwhile: cool it.")
        else:
            doubts += self._clock_doubts(trace)
        waits = growth(before, after, "quota_waits")
        if waits > 0:
            doubts.append(
                f"the container's CPU quota ({quota_cores(self._root)} cores) held this process "
                f"back {waits} times meanwhile: raise it, or lower the threads."
            )
        return doubts + swap_doubts(before, after)

    def power_meter(self) -> PowerMeter | None:
        """RAPL, where this user may read it."""
        return rapl_meter(self._root)

    @property
    def _cpus(self) -> Path:
        return self._root / "sys/devices/system/cpu"

    def _clock_doubts(self, trace: Sequence[Look]) -> list[str]:
        clocks = seen_under_load(trace, "mhz")
        if not clocks or min(clocks) >= max(clocks) * (1 - _NOTICEABLE_CLOCK):
            return []
        governors = set(self._governors()) - {"performance"}
        mend = "sudo cpupower frequency-set -g performance" if governors else "cool it"
        return [
            f"the CPU's clock moved between {min(clocks):.0f} and {max(clocks):.0f} MHz "
            f"meanwhile: {mend}."
        ]

    def _governors(self) -> list[str]:
        found = (
            read_text(self._cpus / f"cpu{core}/cpufreq/scaling_governor") for core in self._cores
        )
        return sorted({governor for governor in found if governor})

    def _mhz(self, file: str) -> list[float]:
        found = (read_int(self._cpus / f"cpu{core}/cpufreq/{file}") for core in self._cores)
        return [khz / 1000 for khz in found if khz is not None]

    def _look(self) -> dict[str, float | None]:
        return {
            "mhz": max(self._mhz("scaling_cur_freq"), default=None),
            "package_c": None if self._sensor is None else _celsius(self._sensor),
        }

    def _cpuinfo_mhz(self) -> list[float]:
        """For virtual machines; too slow on large ones to be looked at again and again."""
        cpuinfo = read_text(self._root / "proc/cpuinfo") or ""
        clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", cpuinfo, re.MULTILINE)
        return [float(clocks[core]) for core in self._cores if core < len(clocks)]

    @cached_property
    def _sensor(self) -> Path | None:
        for sensor in sorted(self._root.glob("sys/class/hwmon/hwmon*")):
            if read_text(sensor / "name") in _PACKAGE_SENSORS:
                return sensor / "temp1_input"
        return None

    def _throttled(self) -> int | None:
        """Events of all cores, and of the package, which every core repeats."""
        cores = [self._counts("core_throttle_count"), self._counts("package_throttle_count")]
        if not any(cores):
            return None
        return sum(cores[0]) + max(cores[1], default=0)

    def _counts(self, file: str) -> list[int]:
        paths = self._cpus.glob(f"cpu[0-9]*/thermal_throttle/{file}")
        return [count for count in map(read_int, paths) if count is not None]


def _celsius(path: Path) -> float | None:
    millidegrees = read_int(path)
    return None if millidegrees is None else millidegrees / 1000
