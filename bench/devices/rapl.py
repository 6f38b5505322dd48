"""The energy counter of x86 CPUs (RAPL), as Linux shows it under powercap."""

from __future__ import annotations

from pathlib import Path

from bench.devices.sysfs import read_int, read_text
from bench.power import CounterMeter

_MICRO = 1e-6


def rapl_meter(root: Path) -> CounterMeter | None:
    """The sum over all CPU packages; None where there is no counter that this user may read."""
    packages = [
        zone
        for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
        if (read_text(zone / "name") or "").startswith("package")
    ]
    wraps_at = read_int(packages[0] / "max_energy_range_uj") if packages else None
    if wraps_at is None or any(read_int(zone / "energy_uj") is None for zone in packages):
        return None

    def read_joules() -> float:
        return sum(read_int(zone / "energy_uj") or 0 for zone in packages) * _MICRO

    return CounterMeter("RAPL: the CPU package, without memory", read_joules, wraps_at * _MICRO)
