"""Energy of counters and of readings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest

import bench.power
from bench.errors import BenchError
from bench.power import CounterMeter, Reading, SampledMeter


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(bench.power.time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    ("readings", "wraps_at", "joules"),
    [((10.0, 25.0), None, 15.0), ((90.0, 5.0), 100.0, 15.0), ((190.0, 5.0), 100.0, 15.0)],
    ids=["grows", "wraps", "two counters wrap"],
)
def test_a_counter_gives_its_growth(
    clock: Clock, readings: tuple[float, ...], wraps_at: float | None, joules: float
) -> None:
    values = iter(readings)
    with CounterMeter("all", lambda: next(values), wraps_at).measured() as drawn:
        clock.now += 5.0
    assert (drawn.joules, drawn.seconds, drawn.watts) == (joules, 5.0, joules / 5)


def test_no_time_is_no_power() -> None:
    assert Reading().watts == 0.0


def sampled(read: Callable[[], float | None], interval: float = 60.0) -> SampledMeter:
    return SampledMeter("all", lambda: nullcontext(read), interval)


def test_readings_are_joined_by_straight_lines(clock: Clock) -> None:
    watts = iter([2.0, 4.0])
    with sampled(lambda: next(watts)).measured() as drawn:
        clock.now += 10.0
    assert (drawn.joules, drawn.seconds, drawn.watts) == (30.0, 10.0, 3.0)


def test_readings_go_on_inside_the_block_and_end_with_it() -> None:
    count, third = 0, threading.Event()

    def read() -> float:
        nonlocal count
        count += 1
        if count > 3:
            third.set()
        return 5.0

    before = threading.active_count()
    with sampled(read, interval=0.0).measured() as drawn:
        assert third.wait(10)
    assert threading.active_count() == before
    assert drawn.watts == pytest.approx(5.0)
    assert drawn.seconds > 0


def test_a_reading_that_fails_is_left_out(clock: Clock) -> None:
    watts = iter([None, 6.0])
    with sampled(lambda: next(watts)).measured() as drawn:
        clock.now += 10.0
    assert (drawn.joules, drawn.seconds) == (60.0, 10.0)


def test_a_dead_meter_is_an_error_not_zero(clock: Clock) -> None:
    with (
        pytest.raises(BenchError, match=r"power meter \(all\) gave no readings"),
        sampled(lambda: None).measured(),
    ):
        clock.now += 1.0


def test_the_fault_of_the_block_comes_through_and_the_source_is_closed() -> None:
    closed = []

    @contextmanager
    def tidy() -> Iterator[Callable[[], float]]:
        try:
            yield lambda: 1.0
        finally:
            closed.append("closed")

    before = threading.active_count()
    with (
        pytest.raises(ZeroDivisionError),
        SampledMeter("all", tidy, 60.0).measured(),
    ):
        _ = 1 / 0
    assert closed == ["closed"]
    assert threading.active_count() == before
