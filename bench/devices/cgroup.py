"""The CPU quota of the container that this process runs in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bench.devices.sysfs import read_int, read_text

_V1_NAMES = ("cpu,cpuacct", "cpuacct,cpu", "cpu")


def quota_cores(root: Path) -> float | None:
    """How many cores' time it may use: the least of its groups' quotas; None for no quota."""
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def quota_waits(root: Path) -> int | None:
    """How often it has been held back because the quota was used up."""
    waits = [
        int(found[1])
        for folder in _groups(root)
        if (found := re.search(r"^nr_throttled (\d+)$", read_text(folder / "cpu.stat") or "", re.M))
    ]
    return max(waits, default=None)


def _quota(folder: Path) -> float | None:
    v2 = re.match(r"(\d+) (\d+)$", read_text(folder / "cpu.max") or "")
    if v2:
        return int(v2[1]) / int(v2[2])
    quota, period = read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _groups(root: Path) -> Iterator[Path]:
    """The folder of this process's group and of those above it."""
    mounts = root / "sys/fs/cgroup"
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield from _upwards(mounts, path)
        elif "cpu" in controllers.split(","):
            for name in _V1_NAMES:
                yield from _upwards(mounts / name, path)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Inside a container ``path`` may be the host's, of which only the mount itself is there."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])
