"""What ``jetson_clocks --show`` prints, which only root may run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_CLOCK = re.compile(
    r"^\s*(\w+):?\s.*?MinFreq=(\d+)\s+MaxFreq=(\d+)\s+CurrentFreq=(\d+)", re.MULTILINE
)


@dataclass(frozen=True)
class Clock:
    """In the unit of the board: Hz of GPU, memory and DLA, kHz of CPU cores."""

    least: int
    most: int
    now: int


def parse_show(text: str) -> dict[str, Clock]:
    """The clocks by name: ``cpu0``, ``GPU``, ``EMC``, ``DLA0_CORE``; of something else, none."""
    return {name: Clock(*map(int, numbers)) for name, *numbers in _CLOCK.findall(text)}


def locked(clocks: Mapping[str, Clock]) -> bool | None:
    """Whether the GPU's clock has no range; None where it is not told."""
    gpu = clocks.get("GPU")
    return gpu.least == gpu.most if gpu else None
