"""First ranges of activations, from images of the train split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from compress.errors import CompressError
from compress.quantize.fake_quantizer import FakeQuantizer
from compress.quantize.simulation import Simulation
from export.ranges import QMAX, QMIN

BINS = 2048
_SAMPLE = 1 << 16  # values of one tensor that are counted; counting all takes longer than the net


class _Extremes:
    """Smallest and largest value seen."""

    def __init__(self) -> None:
        self.low = torch.tensor(float("inf"))
        self.high = torch.tensor(float("-inf"))

    def __call__(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.float())
        self.low = torch.minimum(self.low, low.cpu())  # keeps a NaN; Python's min() drops it
        self.high = torch.maximum(self.high, high.cpu())


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
    simulation: Simulation, batches: Iterable[Tensor], method: str, percentile: float
) -> None:
    """Set every group's range from the activations, not yet rounded, that ``batches`` cause.

    Args:
        simulation: on a fused float model; its INT8 convolutions have rounded weights.
        batches: images (N, 3, H, W) in [0, 1]; run through twice for percentiles.
        method: ``minmax`` or ``percentile``.
        percentile: see ``percentile_range``; used by that method only.

    Raises:
        CompressError: if an activation is NaN or infinite, or is computed where it is not seen.
    """
    spans = _extremes(simulation, batches)
    if method == "percentile":
        histograms = [_Histogram(low, high) for low, high in spans]
        _observe(simulation, batches, histograms)
        spans = [
            percentile_range(histogram.counts, *span, percentile)
            for histogram, span in zip(histograms, spans, strict=True)
        ]
    for group, quantizer, span in zip(simulation.points, simulation.quantizers, spans, strict=True):
        fixed = simulation.fixed_range(group)
        quantizer.set_range(*(fixed or span), fixed=fixed is not None)


def clipped_shares(simulation: Simulation, batches: Iterable[Tensor]) -> list[float]:
    """For each group, the share of the activations that its range cuts off."""
    counters = [
        _Outside(*range_of(quantizer), fixed=simulation.fixed_range(group) is not None)
        for group, quantizer in zip(simulation.points, simulation.quantizers, strict=True)
    ]
    _observe(simulation, batches, counters)
    return [counter.share for counter in counters]


class _Outside:
    """Share of the values beyond a range by more than half a step, which rounding would reach."""

    def __init__(self, low: float, high: float, fixed: bool) -> None:
        margin = (high - low) / (QMAX - QMIN) / 2
        self.low, self.high = low - margin, high + margin
        self.fixed = fixed
        self.outside, self.total = 0, 0

    def __call__(self, x: Tensor) -> None:
        if not self.fixed:
            self.outside += int(((x < self.low) | (x > self.high)).sum())
            self.total += x.numel()

    @property
    def share(self) -> float:
        return self.outside / max(self.total, 1)


def _extremes(simulation: Simulation, batches: Iterable[Tensor]) -> list[tuple[float, float]]:
    extremes = [_Extremes() for _ in simulation.points]
    _observe(simulation, batches, extremes)
    for group, seen in zip(simulation.points, extremes, strict=True):
        tensor = group[0][0].tensor
        if seen.high < seen.low:
            raise CompressError(
                f"calibration: '{tensor}' is computed in a way that training cannot simulate (an "
                "activation other than SiLU and ReLU?). List its layer under `float_layers`."
            )
        if not torch.isfinite(seen.high - seen.low):
            raise CompressError(
                f"calibration: '{tensor}' is NaN or infinite on the calibration images. The "
                "checkpoint is broken; train it again with a lower learning rate."
            )
    return [(float(seen.low), float(seen.high)) for seen in extremes]


def range_of(quantizer: FakeQuantizer) -> tuple[float, float]:
    """Smallest and largest value that a quantizer can represent."""
    scale, zero_point = float(quantizer.scale.detach()), int(quantizer.zero_point)
    return (QMIN - zero_point) * scale, (QMAX - zero_point) * scale


def _observe(
    simulation: Simulation, batches: Iterable[Tensor], observers: Sequence[Callable[[Tensor], None]]
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
