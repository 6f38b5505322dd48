"""Facts of the machine that a measurement is worth nothing without."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import psutil


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
    memory_bytes: int
    system: str
    python: str
    onnxruntime: str | None


def read_machine(root: Path = Path("/")) -> Machine:
    """Look at this machine; ``root`` is where ``proc`` and ``sys`` lie."""
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    logical = psutil.cpu_count() or 1
    return Machine(
        cpu=_cpu_model(cpuinfo, root),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=logical,
        usable_cores=_usable_cores(logical),
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        turbo=_turbo(root),
        virtual=re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None,
        memory_bytes=psutil.virtual_memory().total,
        system=platform.platform(),
        python=platform.python_version(),
        onnxruntime=_version("onnxruntime"),
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def _cpu_model(cpuinfo: str, root: Path) -> str:
    """The x86 model name; on an ARM board the name of the board."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if found:
        return found[1].strip()
    board = _read(root / "proc/device-tree/model")
    return board or platform.processor() or platform.machine()


def _usable_cores(logical: int) -> int:
    """Cores that this process may run on; only Linux tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical


def _turbo(root: Path) -> bool | None:
    no_turbo = _read(root / "sys/devices/system/cpu/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == "0"
    boost = _read(root / "sys/devices/system/cpu/cpufreq/boost")
    return None if boost is None else boost == "1"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
