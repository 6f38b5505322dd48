"""First ranges of activations, from images of the train split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from compress.errors import CompressError
from compress.quantize.simulation import Simulation

BINS = 2048
_SAMPLE = 1 << 16  # values of one tensor that are counted; counting all takes longer than the net


class _Extremes:
    """Smallest and largest value seen."""

    def __init__(self) -> None:
        self.low = float("inf")
        self.high = float("-inf")

    def __call__(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        self.low = min(self.low, float(low))
        self.high = max(self.high, float(high))


class _Histogram:
    """Counts of values between two known ends."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def __call__(self, x: Tensor) -> None:
        values = x.float().flatten()
        stride = -(-values.numel() // _SAMPLE) | 1  # odd: walks through all columns of a map
        self.counts += torch.histc(values[::stride], BINS, self.low, self.high).double().cpu()


def percentile_range(
    counts: Tensor, low: float, high: float, percentile: float
) -> tuple[float, float]:
    """The range that leaves out ``100 - percentile`` % of the values at each end.

    Args:
        counts: (BINS,) histogram of values between ``low`` and ``high``.
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


def calibrate(
    simulation: Simulation,
    batches: Sequence[Tensor] | Iterable[Tensor],
    method: str,
    percentile: float,
) -> list[float]:
    """Set every group's range from the values that the float model computes on ``batches``.

    Args:
        simulation: on a fused float model.
        batches: images (N, 3, H, W) in [0, 1]; run through twice for percentiles.
        method: ``minmax`` or ``percentile``.
        percentile: see ``percentile_range``; used by that method only.

    Returns:
        For each group, the share of values outside its range.

    Raises:
        CompressError: if an activation is NaN or infinite.
    """
    batches = list(batches)
    extremes = [_Extremes() for _ in simulation.points]
    _observe(simulation, batches, extremes)
    for group, seen in zip(simulation.points, extremes, strict=True):
        if not (seen.low <= seen.high and abs(seen.low) + abs(seen.high) < float("inf")):
            raise CompressError(
                f"calibration: '{group[0][0].tensor}' is NaN or infinite on the calibration "
                "images. The checkpoint is broken; train it again with a lower learning rate."
            )
    spans = [(seen.low, seen.high) for seen in extremes]
    clipped = [0.0] * len(spans)
    if method == "percentile":
        histograms = [_Histogram(low, high) for low, high in spans]
        _observe(simulation, batches, histograms)
        for index, histogram in enumerate(histograms):
            low, high = percentile_range(histogram.counts, *spans[index], percentile)
            clipped[index] = _outside(histogram, low, high)
            spans[index] = low, high
    for index, (group, quantizer) in enumerate(
        zip(simulation.points, simulation.quantizers, strict=True)
    ):
        fixed = simulation.fixed_range(group)
        clipped[index] = 0.0 if fixed else clipped[index]
        quantizer.set_range(*(fixed or spans[index]))
    return clipped


def _outside(histogram: _Histogram, low: float, high: float) -> float:
    width = (histogram.high - histogram.low) / BINS
    centers = histogram.low + (torch.arange(BINS) + 0.5) * width
    total = float(histogram.counts.sum())
    return float(histogram.counts[(centers < low) | (centers > high)].sum()) / max(total, 1.0)


def _observe(
    simulation: Simulation, batches: Sequence[Tensor], observers: Sequence[Callable[[Tensor], None]]
) -> None:
    hooks = [(hook, index) for index, group in enumerate(simulation.points) for _, hook in group]
    for hook, index in hooks:
        hook.observe = observers[index]
    simulation.model.eval()
    try:
        with torch.no_grad():
            for images in batches:
                simulation.model(images)
    finally:
        for hook, _ in hooks:
            hook.observe = None
