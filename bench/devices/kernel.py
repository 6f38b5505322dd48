"""What the Linux kernel counts for the whole machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.devices.sysfs import read_text

_NOTICEABLE_PAGES = 256


def swapped_pages(root: Path) -> int | None:
    """Memory pages moved to and from swap since boot."""
    counters = re.findall(r"^pswp(?:in|out) (\d+)$", read_text(root / "proc/vmstat") or "", re.M)
    return sum(map(int, counters)) if counters else None


def load_average(root: Path) -> float | None:
    """Processes that ran or waited to run, mean of the last minute."""
    found = re.match(r"\d+\.\d+", read_text(root / "proc/loadavg") or "")
    return float(found[0]) if found else None


def growth(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> int:
    """How far a counter of the two states rose; 0 where one of them lacks it."""
    if before.get(name) is None or after.get(name) is None:
        return 0
    return int(after[name] - before[name])


def swap_doubts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Whether the machine swapped between two states that hold ``swapped_pages``."""
    pages = growth(before, after, "swapped_pages")
    if pages < _NOTICEABLE_PAGES:
        return []
    return [f"the machine swapped meanwhile ({pages} pages): stop what fills its memory."]
