"""One progress bar over parts of unequal length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.loop import ProgressCallback


class Portions:
    """Turns percent points of each part into those of the whole, 100 in all."""

    def __init__(self, weights: Mapping[str, float], told: ProgressCallback | None) -> None:
        """Take the parts, in any unit, and who is told whole percent points as they come."""
        self._weights = weights
        self._total = sum(weights.values())
        self._told = told
        self._reached = 0.0
        self._passed_on = 0

    def of(self, part: str) -> ProgressCallback:
        """What ``part`` is to call with its own percent points, 100 in all."""
        share = self._weights[part] / self._total if self._total else 1 / len(self._weights)

        def advance(percent: int) -> None:
            self._reached += percent * share
            whole = int(self._reached + 1e-6)
            if self._told is not None and whole > self._passed_on:
                self._told(whole - self._passed_on)
                self._passed_on = whole

        return advance
