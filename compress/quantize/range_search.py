"""From a histogram of activations to the range that INT8 covers. Pure tensor functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from export.ranges import QMAX, QMIN

_SYMMETRIC_MAX = 127  # of s8; the grid goes one step further below
_ZOOMED = 5  # shares on each side in a closer look
_Cost = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Histogram:
    """How often values fell into bins of equal width between ``low`` <= 0 and ``high`` >= 0.

    ``counts`` is (bins,), float64.
    """

    counts: Tensor
    low: float
    high: float

    @property
    def width(self) -> float:
        """Width of a bin."""
        return (self.high - self.low) / len(self.counts)

    @property
    def edges(self) -> Tensor:
        """(bins + 1,) ends of the bins."""
        steps = torch.arange(len(self.counts) + 1, dtype=torch.float64)
        return self.low + steps * self.width


def find_range(
    histogram: Histogram, method: str, percentile: float, symmetric: bool = False
) -> tuple[float, float]:
    """The range of one of the calibration methods; it contains 0 and lies within the histogram.

    Args:
        histogram: counts of values.
        method: ``minmax``, ``percentile``, ``mse`` or ``entropy``.
        percentile: see ``percentile_range``.
        symmetric: whether the grid is signed and around 0; the range is then ``-m`` to ``m``.

    Returns:
        Lower and upper end, both 0 where every value was 0.
    """
    low, high = histogram.low, histogram.high
    if high <= low or not histogram.counts.any():
        return low, high
    if method == "percentile":
        low, high = percentile_range(histogram.counts, low, high, percentile)
    elif method == "mse":
        low, high = mse_range(histogram, symmetric)
    elif method == "entropy":
        low, high = entropy_range(histogram, symmetric)
    low, high = min(low, 0.0), max(high, 0.0)
    return (-max(-low, high), max(-low, high)) if symmetric else (low, high)


def percentile_range(
    counts: Tensor, low: float, high: float, percentile: float
) -> tuple[float, float]:
    """The range that leaves out ``100 - percentile`` % of the values at each end.

    Args:
        counts: (bins,) histogram of values between ``low`` and ``high``.
        low: left edge of the first bin.
        high: right edge of the last bin.
        percentile: 50 to 100; 100 gives ``low`` and ``high``.

    Returns:
        Lower and upper end, on bin edges.
    """
    share = counts.cumsum(0) / counts.sum()
    tail = 1 - percentile / 100
    width = (high - low) / len(counts)
    first = int((share <= tail).sum())
    last = int((share < 1 - tail - 1e-12).sum())
    return low + first * width, low + (last + 1) * width


def mse_range(histogram: Histogram, symmetric: bool = False) -> tuple[float, float]:
    """The range with the least mean squared error of rounding and clipping together."""
    finest = 1 / len(histogram.counts)
    # even in ratio: of a long tail the best end may be a thousandth of the largest value
    grid = torch.logspace(torch.tensor(finest).log10().item(), 0, 24, dtype=torch.float64)

    def cost(lows: Tensor, highs: Tensor) -> Tensor:
        return squared_error(histogram, lows, highs, symmetric)

    return _search(cost, histogram, grid, symmetric)


def squared_error(
    histogram: Histogram, lows: Tensor, highs: Tensor, symmetric: bool = False
) -> Tensor:
    """Mean squared error of values when they are rounded to the INT8 grid of each range.

    Exact for values that spread evenly within their bin: the squared distance to the nearest point
    of the grid has a closed integral, which also holds beyond the grid's ends.

    Args:
        histogram: counts of values.
        lows: (K,) lower ends, at most 0.
        highs: (K,) upper ends, at least 0; a range must have a width.
        symmetric: s8 around 0, scale ``high / 127``, in place of u8 with a zero point.

    Returns:
        (K,) errors.
    """
    if symmetric:
        scale = (highs / _SYMMETRIC_MAX)[:, None]
        least, most = torch.tensor(-_SYMMETRIC_MAX - 1.0), torch.tensor(float(_SYMMETRIC_MAX))
    else:
        scale = ((highs - lows) / (QMAX - QMIN))[:, None]
        zero_point = (-lows[:, None] / scale).round()
        least, most = QMIN - zero_point, QMAX - zero_point
    edges = histogram.edges
    nearest = (edges / scale).round().clamp(least, most)
    integral = nearest * scale**3 / 12 + (edges - nearest * scale) ** 3 / 3
    share = histogram.counts / histogram.counts.sum()
    return (integral.diff(dim=1) @ share) / histogram.width


def entropy_range(histogram: Histogram, symmetric: bool = False) -> tuple[float, float]:
    """The range whose 256 levels lose least information: least Kullback-Leibler divergence.

    TensorRT's method (Migacz, "8-bit Inference with TensorRT", GTC 2017) with two free ends. The
    bin of 0 counts no more than its neighbours: what a ReLU sets to 0 is represented exactly by
    any range and would outweigh all the rest.
    """
    evened = Histogram(_without_spike_at_zero(histogram), histogram.low, histogram.high)
    grid = torch.linspace(0, 1, 21, dtype=torch.float64)[1:]

    def cost(lows: Tensor, highs: Tensor) -> Tensor:
        return divergence(evened, lows, highs)

    return _search(cost, histogram, grid, symmetric)


def _without_spike_at_zero(histogram: Histogram) -> Tensor:
    counts, bins = histogram.counts.clone(), len(histogram.counts)
    zero = min(round(-histogram.low / histogram.width), bins - 1)
    first = max(zero - 1, 0)  # 0 lies in this bin or in the next
    near = torch.cat([counts[max(first - 1, 0) : first], counts[zero + 1 : zero + 2]])
    if near.any():
        counts[first : zero + 1].clamp_(max=float(near.max()))
    return counts


def divergence(
    histogram: Histogram, lows: Tensor, highs: Tensor, levels: int = QMAX - QMIN + 1
) -> Tensor:
    """Kullback-Leibler divergence of the clipped histogram from what ``levels`` tell of it.

    Args:
        histogram: counts of values.
        lows: (K,) lower ends, taken to the nearest bin edge.
        highs: (K,) upper ends.
        levels: even parts of a range, each of which knows one count for all its filled bins.

    Returns:
        (K,) divergences in nats; infinite where a range holds no value, and where one smaller than
        the histogram has fewer bins than levels. Values clipped into an end bin that was empty are
        as unlikely there as half a count.
    """
    counts, bins = histogram.counts, len(histogram.counts)
    first = ((lows - histogram.low) / histogram.width).round().long().clamp(0, bins - 1)
    last = ((highs - histogram.low) / histogram.width).round().long().clamp(1, bins) - 1
    index = torch.arange(bins)
    inside = (index >= first[:, None]) & (index <= last[:, None])
    kept = torch.where(inside, counts, 0.0)
    position = (histogram.edges[:-1] + histogram.width / 2 - lows[:, None]) / (highs - lows)[
        :, None
    ]
    level = (position * levels).long().clamp(0, levels - 1)
    none = kept.new_zeros(len(lows), levels)
    sums = none.scatter_add(1, level, kept)
    filled = none.scatter_add(1, level, (kept > 0).double())
    told = torch.where(kept > 0, sums.gather(1, level) / filled.gather(1, level), 0.0)
    total = counts.cumsum(0)
    below, above = total[first] - counts[first], total[-1] - total[last]
    truth = kept.scatter_add(1, first[:, None], below[:, None])
    truth = truth.scatter_add(1, last[:, None], above[:, None]) / total[-1]
    known = (told / told.sum(1, keepdim=True)).clamp_min(0.5 / float(total[-1]))
    lost = torch.where(truth > 0, truth * (truth / known).log(), 0.0).sum(1)
    too_coarse = (highs - lows < (levels - 0.5) * histogram.width) & (last - first + 1 < bins)
    return torch.where(too_coarse | lost.isnan(), torch.inf, lost)


def _search(
    cost: _Cost, histogram: Histogram, grid: Tensor, symmetric: bool
) -> tuple[float, float]:
    """The cheapest range: one end after the other, by shares of the extremes, closer each round.

    Args:
        cost: of lower ends (K,) and upper ends (K,).
        histogram: its ends are the extremes.
        grid: shares to begin with, rising, up to 1.
        symmetric: whether both ends move together.
    """
    reach = max(-histogram.low, histogram.high)
    extremes = (-reach, reach) if symmetric else (histogram.low, histogram.high)
    moving = ((0, 1),) if symmetric else tuple((end,) for end in (0, 1) if extremes[end])
    shares = [1.0, 1.0]
    grids = [grid, grid]
    for zooming in (False, False, True, True):
        for ends in moving:
            if zooming:
                grids[ends[0]] = _closer(grids[ends[0]], shares[ends[0]])
            tried = grids[ends[0]]
            low, high = (
                extremes[end] * (tried if end in ends else torch.full_like(tried, shares[end]))
                for end in (0, 1)
            )
            best = float(tried[cost(low, high).argmin()])
            for end in ends:
                shares[end] = best
    return shares[0] * extremes[0], shares[1] * extremes[1]


def _closer(shares: Tensor, best: float) -> Tensor:
    """Shares from one neighbour of the best one to the other, itself among them."""
    at = int((shares - best).abs().argmin())
    low, high = shares[max(at - 1, 0)], shares[min(at + 1, len(shares) - 1)]
    below = torch.linspace(float(low), best, _ZOOMED, dtype=torch.float64)
    above = torch.linspace(best, float(high), _ZOOMED, dtype=torch.float64)
    return torch.cat([below, above[1:]])
