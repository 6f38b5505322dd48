"""What ranges cut off, and why they may be wrong for other images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.quantize.calibration import observe
from compress.quantize.fake_quantizer import FakeQuantizer
from compress.quantize.simulation import Simulation
from export.ranges import QMAX, QMIN

_PLAIN = 4  # different values in images of one colour with a border


@dataclass(frozen=True)
class RangeCheck:
    """``clipped``: for each group the share of its activations that its range cuts off.

    ``notes``: the tensor of which most is cut off, and what makes the ranges doubtful.
    """

    clipped: tuple[float, ...]
    notes: tuple[str, ...]


def check_ranges(simulation: Simulation, batches: Iterable[Tensor]) -> RangeCheck:
    """Compare the ranges with the activations, not rounded, that ``batches`` cause.

    Args:
        simulation: with its ranges set.
        batches: images (N, 3, H, W) in [0, 1].
    """
    watchers = [
        _Watcher(*range_of(quantizer), fixed=simulation.fixed_range(points) is not None)
        for points, quantizer in zip(
            simulation.points, simulation.quantizers.activations, strict=True
        )
    ]
    pixels = torch.zeros(256, dtype=torch.bool)
    observe(simulation, _counted(batches, pixels), watchers)
    clipped = tuple(watcher.clipped for watcher in watchers)
    names = [points[0][0].tensor for points in simulation.points]
    still = [name for name, watcher in zip(names, watchers, strict=True) if watcher.still]
    notes = [] if not any(clipped) else [_most_clipped(names, clipped)]
    if int(pixels.sum()) <= _PLAIN:
        notes.append(
            f"the calibration images hold only {int(pixels.sum())} different pixel values: the "
            "ranges will not fit real images"
        )
    if still:
        notes.append(
            f"{len(still)} tensors never changed on the calibration images, '{still[0]}' first: "
            "a dead layer, or images that are too much alike"
        )
    return RangeCheck(clipped, tuple(notes))


def range_of(quantizer: FakeQuantizer) -> tuple[float, float]:
    """Smallest and largest value that a quantizer can represent."""
    scale, zero_point = float(quantizer.scale.detach()), int(quantizer.zero_point)
    return (QMIN - zero_point) * scale, (QMAX - zero_point) * scale


class _Watcher:
    """Counts values beyond a range by more than half a step, which rounding would reach."""

    def __init__(self, low: float, high: float, fixed: bool) -> None:
        margin = (high - low) / (QMAX - QMIN) / 2
        self.low, self.high = low - margin, high + margin
        self.fixed = fixed
        self.least, self.most = float("inf"), float("-inf")
        self.outside, self.total = 0, 0

    def __call__(self, x: Tensor) -> None:
        least, most = (float(end) for end in x.aminmax())
        self.least, self.most = min(self.least, least), max(self.most, most)
        self.total += x.numel()
        if not self.fixed and (least < self.low or most > self.high):
            self.outside += int(((x < self.low) | (x > self.high)).sum())

    @property
    def clipped(self) -> float:
        return self.outside / max(self.total, 1)

    @property
    def still(self) -> bool:
        return self.least == self.most


def _counted(batches: Iterable[Tensor], pixels: Tensor) -> Iterator[Tensor]:
    """``batches``; marks in ``pixels`` which of the 256 values of a pixel occur."""
    for images in batches:
        pixels |= (torch.histc(images.float(), 256, 0.0, 1.0) > 0).cpu()
        yield images


def _most_clipped(names: list[str], clipped: tuple[float, ...]) -> str:
    worst = max(range(len(clipped)), key=lambda index: clipped[index])
    return f"most clipped is '{names[worst]}': {clipped[worst]:.4%} of its values"
