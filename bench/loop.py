"""The timing loop: several calls in turn, so that a drifting clock hits all of them alike."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Clock = Callable[[], int]
    ProgressCallback = Callable[[int], None]


@dataclass(frozen=True)
class Minimum:
    """How long a loop goes on: until this time *and* this number of rounds are reached."""

    seconds: float
    count: int

    def share(self, seconds: float, count: int) -> float:
        """How much of both is reached, 0 to 1."""
        time_share = seconds / self.seconds if self.seconds > 0 else 1.0
        count_share = count / self.count if self.count > 0 else 1.0
        return min(time_share, count_share, 1.0)


def measure(
    calls: Mapping[str, Callable[[], object]],
    *,
    warmup: Minimum,
    minimum: Minimum,
    clock: Clock = time.perf_counter_ns,
    progress: ProgressCallback | None = None,
    stopped: Callable[[], bool] = lambda: False,
    after: Callable[[str], None] | None = None,
) -> dict[str, list[int]]:
    """Time every call once a round, the one that starts a round changing with each round.

    Args:
        calls: what to time, by name.
        warmup: rounds that are thrown away.
        minimum: rounds that are kept; its time is that of the whole loop, not of one call.
        clock: nanoseconds, monotonic.
        progress: is told each new percent points of the kept rounds, 100 in all, between rounds.
        stopped: whether to end before the minimum is met; asked between rounds.
        after: is told the name of each call that was kept, outside of its time.

    Returns:
        Nanoseconds of each call by name; sample i of every series is of round i.
    """
    _run_rounds(calls, warmup, clock, None, stopped, None)
    with _garbage_collection_paused():
        return _run_rounds(calls, minimum, clock, progress, stopped, after)


def _run_rounds(
    calls: Mapping[str, Callable[[], object]],
    minimum: Minimum,
    clock: Clock,
    progress: ProgressCallback | None,
    stopped: Callable[[], bool],
    after_call: Callable[[str], None] | None,
) -> dict[str, list[int]]:
    samples: dict[str, list[int]] = {name: [] for name in calls}
    turns = deque((name, call, samples[name].append) for name, call in calls.items())
    started = clock()
    rounds = told = 0
    share = 0.0
    while share < 1.0 and not stopped():
        for name, call, keep in turns:
            before = clock()
            call()
            after = clock()
            keep(after - before)
            if after_call is not None:
                after_call(name)
        turns.rotate(-1)
        rounds += 1
        share = minimum.share((clock() - started) / 1e9, rounds)
        if progress is not None and int(share * 100) > told:
            progress(int(share * 100) - told)
            told = int(share * 100)
    return samples


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """A collection in the middle of a call takes longer than a small net."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
