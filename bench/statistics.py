"""What a series of latencies says, and how surely. Integer nanoseconds, no outlier removed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.results.schema import Latency

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Series = Sequence[int] | NDArray[np.int64]

PERCENTILES = (50, 90, 99)
CV_LIMIT = 0.025
_NS_PER_MS = 1e6
_CONFIDENCE = 0.99
_RESAMPLES = 1000
_AT_ONCE = 50  # resamples: all of them would fill a board's memory


@dataclass(frozen=True)
class Summary:
    """Latencies in nanoseconds; ``cv`` is a share of the mean.

    A percentile is None where there are fewer samples than ``samples_needed`` says.
    """

    p50: int | None
    p90: int | None
    p99: int | None
    mean: float
    cv: float
    count: int


@dataclass(frozen=True)
class Ratio:
    """Median of a baseline over the median of another series, with its confidence interval."""

    value: float
    low: float
    high: float


def percentile(samples: Series, percent: int) -> int:
    """The nearest-rank percentile: the least sample that ``percent`` % of all do not exceed.

    Args:
        samples: at least one latency, in any order.
        percent: 1 to 100.
    """
    rank = -(-percent * len(samples) // 100)
    return int(np.partition(np.asarray(samples, dtype=np.int64), rank - 1)[rank - 1])


def samples_needed(percent: int) -> int:
    """How many samples it takes to claim a percentile (``percent``: 1 to 99).

    With that many, a true percentile above what is claimed shows itself by two or more slower
    samples with 99 % confidence (the early-stopping rule of MLPerf with one over-latency sample).
    """
    below = percent / 100
    count = 2
    while below**count + count * (1 - below) * below ** (count - 1) > 1 - _CONFIDENCE:
        count += 1
    return count


def summarise(samples: Series) -> Summary:
    """Percentiles, mean and coefficient of variation of at least one latency."""
    series = np.asarray(samples, dtype=np.int64)
    mean = float(series.mean())
    deviation = float(series.std(ddof=1)) if len(series) > 1 else 0.0
    p50, p90, p99 = (
        percentile(series, percent) if len(series) >= samples_needed(percent) else None
        for percent in PERCENTILES
    )
    return Summary(p50, p90, p99, mean, deviation / mean if mean else 0.0, len(series))


def latency_of(samples: Series) -> Latency:
    """The summary in milliseconds; the median is there whatever the number of samples."""
    summary = summarise(samples)
    return Latency(
        p50=percentile(samples, 50) / _NS_PER_MS,
        p90=None if summary.p90 is None else summary.p90 / _NS_PER_MS,
        p99=None if summary.p99 is None else summary.p99 / _NS_PER_MS,
        mean=summary.mean / _NS_PER_MS,
        cv=summary.cv,
        count=summary.count,
    )


def median_ratio(base: Series, other: Series, *, seed: int = 0, confidence: float = 0.95) -> Ratio:
    """How many times faster ``other`` is than ``base``, as the ratio of their medians.

    Both series come from one interleaved run: sample i of each was taken in the same round. The
    bootstrap therefore draws rounds, not samples, which keeps what slowed both at once, and draws
    them in blocks, because a slow spell lasts for several rounds.
    """
    drawn = drawn_medians(base, other, seed=seed)
    low, high = interval(drawn[:, 0] / drawn[:, 1], confidence)
    return Ratio(percentile(base, 50) / percentile(other, 50), low, high)


def drawn_medians(*series: Series, seed: int) -> NDArray[np.float64]:
    """Medians of series of one interleaved run as they might have come out too.

    Returns:
        (1000, number of series): a row for each draw of rounds, the same rounds for all series.
    """
    arrays = [np.asarray(each, dtype=np.int64) for each in series]
    count, generator = len(arrays[0]), np.random.default_rng(seed)
    middle = -(-count // 2) - 1  # of the sorted samples, as ``percentile`` has it
    drawn = []
    for _ in range(_RESAMPLES // _AT_ONCE):
        rounds = _draw_rounds(count, _AT_ONCE, generator)
        drawn.append([np.partition(each[rounds], middle, axis=1)[:, middle] for each in arrays])
    medians: NDArray[np.float64] = np.concatenate(drawn, axis=1).T.astype(np.float64)
    return medians


def interval(drawn: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Where the middle ``confidence`` of the values lie."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)


def _draw_rounds(count: int, draws: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Indices (draws, count) of rounds: blocks of consecutive ones, drawn with replacement."""
    length = math.isqrt(count)
    starts = generator.integers(0, count, size=(draws, -(-count // length), 1))
    rounds: NDArray[np.int64] = (starts + np.arange(length)).reshape(draws, -1)[:, :count] % count
    return rounds
