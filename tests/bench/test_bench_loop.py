"""The timing loop, on a clock of its own."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.loop import Minimum, measure
from bench.statistics import percentile

NO_WARMUP = Minimum(0.0, 1)


class FakeClock:
    """Time passes only inside of the calls."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now

    def call(self, name: str, cost: Callable[[int], int]) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.now += cost(self.now)

        return run


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 50), st.integers(1, 10**8), st.floats(0.0, 2.0))
def test_stops_when_time_and_count_are_both_met_and_not_later(
    count: int, cost: int, seconds: float
) -> None:
    clock = FakeClock()
    limit = Minimum(min(seconds, cost * 300 / 1e9), count)
    samples = measure(
        {"a": clock.call("a", lambda _: cost)}, warmup=NO_WARMUP, minimum=limit, clock=clock
    )["a"]
    assert set(samples) == {cost}
    assert len(samples) >= count
    assert sum(samples) / 1e9 >= limit.seconds
    before_last = len(samples) - 1
    assert before_last < count or before_last * cost / 1e9 < limit.seconds


def test_warmup_calls_leave_no_sample() -> None:
    clock = FakeClock()
    cost = {"left": 3}

    def falling(_: int) -> int:
        cost["left"] -= 1
        return 1000 if cost["left"] >= 0 else 10

    call = {"a": clock.call("a", falling)}
    samples = measure(call, warmup=Minimum(0.0, 3), minimum=Minimum(0.0, 5), clock=clock)
    assert samples == {"a": [10] * 5}
    assert len(clock.calls) == 8


def test_warmup_lasts_its_time() -> None:
    clock = FakeClock()
    call = {"a": clock.call("a", lambda _: 10**8)}
    measure(call, warmup=Minimum(0.75, 1), minimum=Minimum(0.0, 1), clock=clock)
    assert len(clock.calls) == 8 + 1


def test_every_call_once_a_round_and_each_goes_first_in_turn() -> None:
    clock = FakeClock()
    calls = {name: clock.call(name, lambda _: 1) for name in "abc"}
    samples = measure(calls, warmup=Minimum(0.0, 3), minimum=Minimum(0.0, 3), clock=clock)
    rounds = ["".join(clock.calls[start : start + 3]) for start in range(0, 18, 3)]
    assert rounds == ["abc", "bca", "cab"] * 2
    assert {name: len(series) for name, series in samples.items()} == {"a": 3, "b": 3, "c": 3}


@settings(deadline=None, max_examples=30)
@given(st.floats(-0.4, 4.0), st.integers(2, 8))
def test_drift_hits_all_alike(drift: float, factor: int) -> None:
    """The clock changes speed by ``drift`` over the run; the ratio must not see it."""
    clock = FakeClock()
    length = 2e9

    def cost(base: int) -> Callable[[int], int]:
        return lambda now: int(base * (1 + drift * min(now / length, 1.0)))

    calls = {
        "slow": clock.call("slow", cost(factor * 10**6)),
        "fast": clock.call("fast", cost(10**6)),
    }
    samples = measure(calls, warmup=NO_WARMUP, minimum=Minimum(2.0, 64), clock=clock)
    ratio = percentile(samples["slow"], 50) / percentile(samples["fast"], 50)
    assert ratio == pytest.approx(factor, rel=0.02)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.floats(0.0, 0.5))
def test_progress_sums_to_a_hundred(count: int, seconds: float) -> None:
    clock = FakeClock()
    steps: list[int] = []
    call = {"a": clock.call("a", lambda _: 10**7)}
    measure(
        call,
        warmup=NO_WARMUP,
        minimum=Minimum(seconds, count),
        clock=clock,
        progress=steps.append,
    )
    assert sum(steps) == 100
    assert min(steps) >= 1


def test_garbage_collection_is_paused_and_comes_back_after_a_fault() -> None:
    seen = []

    def failing() -> None:
        seen.append(gc.isenabled())
        if len(seen) == 3:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        measure({"a": failing}, warmup=NO_WARMUP, minimum=Minimum(0.0, 5))
    assert seen == [True, False, False]
    assert gc.isenabled()


def test_own_cost_is_small() -> None:
    samples = measure({"a": lambda: None}, warmup=Minimum(0.0, 100), minimum=Minimum(0.0, 2000))
    assert percentile(samples["a"], 50) < 10_000  # 1 % of a 1 ms inference
