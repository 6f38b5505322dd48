"""Energy over a stretch of time, of a counter or of readings taken in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


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
        """Meter what is drawn inside the block."""


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
        if drawn < 0 and self.wraps_at is not None:
            drawn += self.wraps_at
        reading.joules, reading.seconds = drawn, time.perf_counter() - began


@dataclass(frozen=True)
class SampledMeter:
    """Watts, read every ``interval`` seconds from a thread and added up (trapezoids)."""

    scope: str
    read_watts: Callable[[], float]
    interval: float = 0.1
    settle_seconds: float = 1.0

    @contextmanager
    def measured(self) -> Iterator[Reading]:
        """Integral of the readings over the time of the block."""
        reading, ended = Reading(), threading.Event()
        points = [(time.perf_counter(), self.read_watts())]

        def read_on() -> None:
            while not ended.wait(self.interval):
                points.append((time.perf_counter(), self.read_watts()))

        thread = threading.Thread(target=read_on, daemon=True)
        thread.start()
        try:
            yield reading
        finally:
            ended.set()
            thread.join()
        points.append((time.perf_counter(), self.read_watts()))
        reading.seconds = points[-1][0] - points[0][0]
        reading.joules = sum(
            (after - before) * (first + second) / 2
            for (before, first), (after, second) in zip(points, points[1:])
        )
