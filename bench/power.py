"""Energy over a stretch of time, of a counter or of readings taken in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bench.errors import BenchError

if TYPE_CHECKING:
    ReadWatts = Callable[[], float | None]

_PATIENCE = 2.0


@dataclass
class Reading:
    """What was drawn. Both are final once the block of ``PowerMeter.measured`` has ended."""

    joules: float = 0.0
    seconds: float = 0.0

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds if self.seconds > 0 else 0.0


class PowerMeter(Protocol):
    """Tells what a device draws."""

    @property
    def scope(self) -> str:
        """What it sees, such as ``VDD_IN: the whole module``."""

    @property
    def settle_seconds(self) -> float:
        """How long its readings lag behind the load."""

    def measured(self) -> AbstractContextManager[Reading]:
        """Meter what is drawn inside the block.

        Raises:
            BenchError: as the block ends, if the meter gave nothing.
        """


@dataclass(frozen=True)
class CounterMeter:
    """A counter of joules that only grows, but for wrapping around at ``wraps_at``."""

    scope: str
    read_joules: Callable[[], float]
    wraps_at: float | None = None
    settle_seconds: float = 0.0

    @contextmanager
    def measured(self) -> Iterator[Reading]:
        """Difference of two looks at the counter."""
        reading, began, before = Reading(), time.perf_counter(), self.read_joules()
        yield reading
        drawn = self.read_joules() - before
        while drawn < 0 and self.wraps_at:  # a sum of several counters wraps once for each
            drawn += self.wraps_at
        reading.joules, reading.seconds = drawn, time.perf_counter() - began


@dataclass(frozen=True)
class SampledMeter:
    """Watts, read every ``interval`` seconds from a thread (trapezoids).

    ``source`` opens what is read; a reading of None is one that failed, and is left out.
    """

    scope: str
    source: Callable[[], AbstractContextManager[ReadWatts]]
    interval: float = 0.1
    settle_seconds: float = 1.0

    @contextmanager
    def measured(self) -> Iterator[Reading]:
        """The mean of the readings over the time of the block."""
        with self.source() as read_watts:
            points: list[tuple[float, float]] = []
            reading, ended, began = Reading(), threading.Event(), time.perf_counter()

            def take() -> None:
                watts = read_watts()
                if watts is not None:
                    points.append((time.perf_counter(), watts))

            def read_on() -> None:
                while not ended.wait(self.interval):
                    take()

            take()
            thread = threading.Thread(target=read_on, daemon=True)
            thread.start()
            try:
                yield reading
            finally:
                ended.set()
                thread.join(_PATIENCE)
            take()
            reading.seconds = time.perf_counter() - began
        if not points:
            raise BenchError(f"The power meter ({self.scope}) gave no readings.")
        reading.joules = _mean(points) * reading.seconds


def _mean(points: list[tuple[float, float]]) -> float:
    """Mean over time of (time, value) pairs, of which there is at least one."""
    area = sum(
        (after - before) * (first + second) / 2
        for (before, first), (after, second) in zip(points, points[1:])
    )
    time_span = points[-1][0] - points[0][0]
    return area / time_span if time_span > 0 else points[0][1]
