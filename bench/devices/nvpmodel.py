"""Power modes of a Jetson: which one it is in, and which is the fastest.

The number of a mode says nothing: on an Orin Nano Super 0 is 15 W, and 2 the fastest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.devices.sysfs import read_text

if TYPE_CHECKING:
    from bench.devices.commands import Run

_NO_CAP = float("inf")


@dataclass(frozen=True)
class PowerMode:
    """``gpu_hz``: the highest clock that it allows; infinite without a cap."""

    id: int
    name: str
    gpu_hz: float = _NO_CAP
    cores: int = 0

    @property
    def _rank(self) -> tuple[bool, int, float]:
        watts = re.search(r"(\d+)W", self.name)
        return self.name.upper().startswith("MAXN"), int(watts[1]) if watts else 0, self.gpu_hz

    def slower_than(self, other: PowerMode) -> bool:
        """By name and watts, and the cap of the GPU's clock."""
        return self._rank < other._rank


def read_mode(root: Path, run: Run) -> PowerMode | None:
    """The mode that the board is in: as the command tells, else as it was last set."""
    queried = parse_query(run(["nvpmodel", "-q"]) or "")
    number = parse_status(read_text(root / "var/lib/nvpmodel/status") or "")
    if queried is not None:
        number = queried.id
    known = (mode for mode in read_modes(root) if mode.id == number)
    return next(known, queried)


def read_modes(root: Path) -> list[PowerMode]:
    """The modes that the board has."""
    return parse_modes(read_text(root / "etc/nvpmodel.conf") or "")


def fastest(modes: Sequence[PowerMode]) -> PowerMode | None:
    """The one that allows most; of equals the one with most CPU cores."""
    return max(modes, key=lambda mode: (mode._rank, mode.cores), default=None)


def parse_query(text: str) -> PowerMode | None:
    """Of ``nvpmodel -q``: a line with the name, the next one with the number."""
    found = re.search(r"^NV Power Mode: *(\S+)\s+^(\d+)\s*$", text, re.MULTILINE)
    return PowerMode(int(found[2]), found[1]) if found else None


def parse_status(text: str) -> int | None:
    """The number of ``pmode:0002 fmode:quiet``."""
    found = re.search(r"\bpmode:(\d+)", text)
    return int(found[1]) if found else None


def parse_modes(text: str) -> list[PowerMode]:
    """Of ``nvpmodel.conf``: a heading a mode, and behind it a line a setting; -1 is no cap."""
    modes: list[PowerMode] = []
    for line in text.splitlines():
        heading = re.match(r"< *POWER_MODEL +ID=(\d+) +NAME=(\S+) *>", line)
        if heading:
            modes.append(PowerMode(int(heading[1]), heading[2]))
        elif modes:
            modes[-1] = _with_setting(modes[-1], line.split())
    return modes


def _with_setting(mode: PowerMode, words: list[str]) -> PowerMode:
    if words[:2] == ["GPU", "MAX_FREQ"] and len(words) == 3 and words[2].isdigit():
        return replace(mode, gpu_hz=int(words[2]) or _NO_CAP)
    if words[:1] == ["CPU_ONLINE"] and words[-1] == "1":
        return replace(mode, cores=mode.cores + 1)
    return mode
