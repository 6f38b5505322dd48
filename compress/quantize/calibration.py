"""First ranges of activations, from images of the train split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.quantize.range_search import Histogram, find_range
from compress.quantize.simulation import Simulation

BINS = 2048
_SAMPLE = 1 << 20  # values of a tensor that are counted in a batch; all take as long as the net
Observer = Callable[[Tensor], None]


class _Extremes:
    """Smallest and largest value seen."""

    def __init__(self) -> None:
        self.low = torch.tensor(float("inf"))
        self.high = torch.tensor(float("-inf"))

    def __call__(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.float())
        self.low = torch.minimum(self.low, low.cpu())  # keeps a NaN; Python's min() drops it
        self.high = torch.maximum(self.high, high.cpu())


class _Counter:
    """Counts of values between two known ends, stretched to contain 0."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = min(low, 0.0), max(high, 0.0)
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def __call__(self, x: Tensor) -> None:
        values = x.float().flatten()
        stride = -(-values.numel() // _SAMPLE) | 1  # odd: walks through all columns of a map
        self.counts += torch.histc(values[::stride], BINS, self.low, self.high).double().cpu()

    @property
    def histogram(self) -> Histogram:
        return Histogram(self.counts, self.low, self.high)


def calibrate(
    simulation: Simulation, batches: Iterable[Tensor], method: str, percentile: float
) -> None:
    """Set every group's range from the activations, not yet rounded, that ``batches`` cause.

    Args:
        simulation: on a fused float model; its INT8 convolutions have rounded weights.
        batches: images (N, 3, H, W) in [0, 1]; run through twice, but for ``minmax``.
        method: ``minmax``, ``percentile``, ``mse`` or ``entropy``: see ``range_search``.
        percentile: used by that method only.

    Raises:
        CompressError: if a weight or activation is NaN or infinite, or an activation is computed
            where it is not seen.
    """
    _require_finite_weights(simulation.model)
    spans = _extremes(simulation, batches)
    fixed = [simulation.fixed_range(group) for group in simulation.points]
    quantizers = simulation.quantizers.activations
    ranges = spans
    if method != "minmax":
        counters = [_Counter(*span) for span in spans]
        needed = [
            _ignore if known else counter for known, counter in zip(fixed, counters, strict=True)
        ]
        observe(simulation, batches, needed)
        ranges = [
            find_range(counter.histogram, method, percentile, quantizer.symmetric)
            for counter, quantizer in zip(counters, quantizers, strict=True)
        ]
    for quantizer, known, found in zip(quantizers, fixed, ranges, strict=True):
        quantizer.set_range(*(known or found), fixed=known is not None)


def _require_finite_weights(model: nn.Module) -> None:
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            raise CompressError(
                f"calibration: '{name}' holds NaN or infinite values. The checkpoint is broken; "
                "train it again with a lower learning rate."
            )


def _ignore(x: Tensor) -> None:
    del x


def _extremes(simulation: Simulation, batches: Iterable[Tensor]) -> list[tuple[float, float]]:
    extremes = [_Extremes() for _ in simulation.points]
    observe(simulation, batches, extremes)
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


def observe(
    simulation: Simulation, batches: Iterable[Tensor], observers: Sequence[Observer]
) -> None:
    """Show ``observers``, one a group, its unrounded activations that ``batches`` cause."""
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
