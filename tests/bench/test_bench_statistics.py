"""Percentiles, how many samples they need, and ratios with their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.statistics import median_ratio, percentile, samples_needed, summarise

latencies = st.lists(st.integers(1, 10**10), min_size=1, max_size=300)


def slow_percentile(samples: list[int], percent: int) -> int:
    """The definition, word by word."""
    return min(
        value
        for value in samples
        if 100 * sum(other <= value for other in samples) >= percent * len(samples)
    )


@settings(deadline=None)
@given(latencies, st.integers(1, 100))
def test_percentile_is_the_nearest_rank(samples: list[int], percent: int) -> None:
    assert percentile(samples, percent) == slow_percentile(samples, percent)


@settings(deadline=None)
@given(latencies)
def test_no_outlier_is_removed(samples: list[int]) -> None:
    assert percentile(samples, 100) == max(samples)
    assert summarise(samples).mean == pytest.approx(sum(samples) / len(samples))


@pytest.mark.parametrize(("percent", "count"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_samples_needed_are_those_of_loadgen(percent: int, count: int) -> None:
    assert samples_needed(percent) == count


@pytest.mark.parametrize(
    ("count", "known"),
    [(10, ()), (11, (50,)), (63, (50,)), (64, (50, 90)), (661, (50, 90)), (662, (50, 90, 99))],
)
def test_a_percentile_without_enough_samples_is_not_invented(
    count: int, known: tuple[int, ...]
) -> None:
    summary = summarise(list(range(1, count + 1)))
    given_percentiles = {50: summary.p50, 90: summary.p90, 99: summary.p99}
    assert tuple(p for p, value in given_percentiles.items() if value is not None) == known
    assert summary.count == count


def test_cv_is_sample_deviation_over_mean() -> None:
    assert summarise([8, 12]).cv == pytest.approx(math.sqrt(8) / 10)
    assert summarise([7]).cv == 0.0


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(100, 10**6), st.integers(11, 200))
def test_ratio_of_steady_series_is_exact(factor: int, latency: int, count: int) -> None:
    ratio = median_ratio([factor * latency] * count, [latency] * count)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((factor,) * 3)


def test_interval_holds_the_true_ratio_and_shrinks_with_samples() -> None:
    generator = np.random.default_rng(1)

    def interval(count: int) -> tuple[float, float]:
        base = generator.normal(2e6, 1e5, count).astype(np.int64)
        other = generator.normal(1e6, 5e4, count).astype(np.int64)
        ratio = median_ratio(base, other)
        return ratio.low, ratio.high

    few, many = interval(30), interval(3000)
    assert few[0] < 2.0 < few[1]
    assert many[0] < 2.0 < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 3


def test_interval_ignores_what_slowed_both_series_at_once() -> None:
    slow_spells = 1 + np.repeat(np.random.default_rng(2).random(50), 20)
    base, other = (3e6 * slow_spells).astype(np.int64), (1e6 * slow_spells).astype(np.int64)
    ratio = median_ratio(base, other)
    assert (ratio.low, ratio.high) == pytest.approx((3.0, 3.0), abs=1e-4)
    shifted = median_ratio(base, np.roll(other, 500))
    assert shifted.high - shifted.low > 0.05


def test_interval_is_seeded() -> None:
    base = np.random.default_rng(3).integers(100, 200, 80)
    assert median_ratio(base, base[::-1], seed=5) == median_ratio(base, base[::-1], seed=5)
    assert median_ratio(base, base[::-1], seed=5) != median_ratio(base, base[::-1], seed=6)
