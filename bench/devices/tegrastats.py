"""The vendor's ``tegrastats``: its lines, and the command in the background.

Its format differs by release: fields of power are current/average and, since L4T 39, maximum;
``mW`` may be missing; a load may be missing where only clocks are told; ``GPU`` is a rail and a
sensor at once; -256 C is a sensor that is switched off.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

_RAIL = re.compile(r"(?<!\S)([A-Z]\w*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)?(?!\S)")
_SENSOR = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C(?![\w.])")
_GPU = re.compile(r"GR3D_FREQ (?:(\d+)%)?(?:@\[?([\d,]+)\]?)?")
_EMC = re.compile(r"EMC_FREQ (?:(\d+)%)?(?:@(\d+))?")
_SWAP = re.compile(r"SWAP (\d+)/\d+MB")
_CORES = re.compile(r"CPU \[([^\]]*)\]")
_SWITCHED_OFF_C = -200.0
_INTERVAL_MS = 200
_PATIENCE = 2.0


@dataclass(frozen=True)
class Stats:
    """One line. None where it does not tell; ``cores_mhz`` holds None for a core that is off."""

    gpu_percent: float | None
    gpu_mhz: float | None
    emc_mhz: float | None
    swap_mb: int | None
    cores_mhz: tuple[int | None, ...]
    celsius: Mapping[str, float]
    milliwatts: Mapping[str, int]


def parse_line(line: str) -> Stats:
    """What ``line`` tells; of something else, nothing."""
    gpu, emc, swap, cores = (kind.search(line) for kind in (_GPU, _EMC, _SWAP, _CORES))
    clocks = [int(mhz) for mhz in (gpu[2] or "").split(",") if mhz] if gpu else []
    return Stats(
        gpu_percent=float(gpu[1]) if gpu and gpu[1] else None,
        gpu_mhz=float(max(clocks)) if clocks else None,
        emc_mhz=float(emc[2]) if emc and emc[2] else None,
        swap_mb=int(swap[1]) if swap else None,
        cores_mhz=tuple(map(_core_mhz, cores[1].split(","))) if cores else (),
        celsius={
            name: float(value)
            for name, value in _SENSOR.findall(line)
            if float(value) > _SWITCHED_OFF_C
        },
        milliwatts={name: int(power) for name, power in _RAIL.findall(line) if name != "NC"},
    )


def _core_mhz(text: str) -> int | None:
    load, _, mhz = text.partition("@")
    return int(mhz) if load.endswith("%") and mhz.isdigit() else None


@contextmanager
def tegrastats(command: str, wait: float = _PATIENCE) -> Iterator[Callable[[], Stats | None]]:
    """Run ``command`` inside the block; calls give what its latest line says, None before one.

    The block begins with the first line, or after ``wait`` seconds; the process ends with it.
    """
    latest: list[Stats] = []
    first = threading.Event()
    process = subprocess.Popen(
        [command, "--interval", str(_INTERVAL_MS)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )

    def read_on() -> None:
        for line in process.stdout or ():
            latest[:] = [parse_line(line.decode(errors="replace"))]
            first.set()
        first.set()

    thread = threading.Thread(target=read_on, daemon=True)
    thread.start()
    try:
        first.wait(wait)
        yield lambda: latest[0] if latest else None
    finally:
        _end(process)
        thread.join(_PATIENCE)
        if process.stdout and not thread.is_alive():
            process.stdout.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
