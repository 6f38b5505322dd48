"""Looks at a device from a thread of its own while something else runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.devices.base import Look

_SETTLED_SECONDS = 1.0
_PATIENCE = 2.0


@contextmanager
def watch(
    look: Callable[[], Mapping[str, float | None]], interval: float = 0.5
) -> Iterator[Sequence[Look]]:
    """What ``look`` gave, every ``interval`` seconds inside the block; numbers it lacks left out.

    A look that hangs does not keep the block from ending.
    """
    looks: list[Look] = []
    ended, began = threading.Event(), time.perf_counter()

    def look_on() -> None:
        while not ended.is_set():
            seconds = round(time.perf_counter() - began, 3)
            seen = {name: value for name, value in look().items() if value is not None}
            if not ended.is_set():
                looks.append({"seconds": seconds, **seen})
            ended.wait(interval)

    thread = threading.Thread(target=look_on, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        ended.set()
        thread.join(_PATIENCE)


def seen_under_load(trace: Sequence[Look], name: str) -> list[float]:
    """The values of ``name``, without those of the first second, when clocks still rise."""
    return [
        float(look[name]) for look in trace if name in look and look["seconds"] >= _SETTLED_SECONDS
    ]
