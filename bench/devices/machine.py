"""Facts of the machine that a measurement is worth nothing without."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from bench.devices.sysfs import read_text


@dataclass(frozen=True)
class Machine:
    """What measured. None where the machine does not tell."""

    cpu: str
    physical_cores: int | None
    logical_cores: int
    usable_cores: int
    governor: str | None
    turbo: bool | None
    virtual: bool
    memory_bytes: int | None
    system: str
    python: str
    onnxruntime: str | None


def read_machine(root: Path = Path("/")) -> Machine:
    """Look at this machine; ``root`` is where ``proc`` and ``sys`` lie."""
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    return Machine(
        cpu=_cpu_model(cpuinfo, root),
        physical_cores=_physical_cores(cpuinfo, root),
        logical_cores=os.cpu_count() or 1,
        usable_cores=len(usable_cores()),
        governor=read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        turbo=turbo(root),
        virtual=re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None,
        memory_bytes=_memory_bytes(),
        system=platform.platform(),
        python=platform.python_version(),
        onnxruntime=_version("onnxruntime"),
    )


def usable_cores() -> list[int]:
    """Cores that this process may run on; only Linux tells, elsewhere it is all of them."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def turbo(root: Path) -> bool | None:
    """Whether clocks above the nominal one are allowed."""
    no_turbo = read_text(root / "sys/devices/system/cpu/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == "0"
    boost = read_text(root / "sys/devices/system/cpu/cpufreq/boost")
    return None if boost is None else boost == "1"


def _cpu_model(cpuinfo: str, root: Path) -> str:
    """The name of the board where there is one, as on ARM; else the x86 model name."""
    board = read_text(root / "proc/device-tree/model")
    if board:  # "model name" is only the architecture there
        return board
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _physical_cores(cpuinfo: str, root: Path) -> int | None:
    """Sets of logical cores that share a physical one."""
    topology = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/topology"))
    siblings = {
        read_text(folder / "core_cpus_list") or read_text(folder / "thread_siblings_list")
        for folder in topology
    } - {None}
    if siblings:
        return len(siblings)
    pairs = re.findall(r"^physical id\s*: (\d+)$.*?^core id\s*: (\d+)$", cpuinfo, re.M | re.S)
    return len(set(pairs)) or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no such call
        return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
