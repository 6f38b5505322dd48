"""Fake quantization of activations and weights: round to INT8's grid, keep float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from compress.quantize.noise import WeightNoise, mixed, with_uniform_noise
from compress.quantize.rounding import round_channels, round_to_grid
from export.ranges import QMAX, QMIN

MAX_CHANGE = 4.0  # of a trained scale against its calibrated value
LEAST_SCALE = torch.finfo(torch.float32).eps  # keeps values / scale far from overflow
MOMENTUM = 0.01  # share of a batch in a moving range
MIDDLE = 128  # of the unsigned grid: the zero point of a symmetric range
_CUTS = 50  # clipped ranges that are tried for a channel

RangeMode = Literal["learned", "ema", "fixed"]


def _within_reach(log_scale: Tensor, start: Tensor) -> Tensor:
    reach = math.log(MAX_CHANGE)
    return log_scale.clamp(start - reach, start + reach).exp()


class WeightQuantizer(nn.Module):
    """Rounds each output channel of one convolution's weight to its own symmetric grid.

    The scale of a channel is its largest magnitude / qmax, qmax = 2^(bits - 1) - 1, or learned
    once ``set_scale`` or ``learn_scale`` has been called: LSQ's gradient, times
    ``1 / sqrt(n qmax)`` with the n elements of *one channel*, on the scale's logarithm and within
    a factor of 4 of its start, as for activations. ``noise`` acts in training mode only.
    """

    log_scale: Tensor | None
    start: Tensor | None

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits
        self.qmax = 2 ** (bits - 1) - 1
        self.noise = WeightNoise()
        self.register_parameter("log_scale", None)
        self.register_buffer("start", None)

    @property
    def learned(self) -> bool:
        """Whether the scales are parameters."""
        return self.log_scale is not None

    def scale(self, weight: Tensor) -> Tensor:
        """Width of a step in each channel, (out,), above 0."""
        if self.log_scale is not None and self.start is not None:
            return _within_reach(self.log_scale, self.start)
        return largest_scale(weight.detach(), self.qmax)

    def learn_scale(self, weight: Tensor) -> None:
        """Make the scales parameters, which begin at the best ones of ``weight``.

        With 8 bits that is the largest magnitude / qmax; with fewer, clipping the largest pays.
        """
        weight = weight.detach()
        full = self.bits >= 8
        start = largest_scale(weight, self.qmax) if full else least_error_scale(weight, self.qmax)
        self.set_scale(start)

    def set_scale(self, scale: Tensor | Sequence[float]) -> None:
        """Take over scales, (out,), that were learned, as parameters."""
        start = torch.as_tensor(scale, dtype=torch.float32).clamp_min(LEAST_SCALE).log()
        self.log_scale = nn.Parameter(start.clone())
        self.start = start

    def rounded(self, weight: Tensor) -> Tensor:
        """``weight`` (out, in, kh, kw), all of it rounded; gradients pass straight through."""
        return round_channels(weight, self.scale(weight), self.qmax, self._factor(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """``weight`` (out, in, kh, kw) as this step sees it; in eval mode always rounded."""
        kind = self.noise.kind if self.training else "full"
        if kind == "uniform":
            scale, factor = self.scale(weight), self._factor(weight)
            scale = factor * scale + (1 - factor) * scale.detach()  # LSQ's share of the gradient
            return with_uniform_noise(weight, scale, self.qmax)
        rounded = self.rounded(weight)
        return rounded if kind == "full" else mixed(weight, rounded, self.noise.share)

    def _factor(self, weight: Tensor) -> float:
        return 1.0 / math.sqrt(weight[0].numel() * self.qmax)


def largest_scale(weight: Tensor, qmax: int) -> Tensor:
    """Scales (out,) with which each channel's largest magnitude is ``qmax`` steps."""
    peak = weight.abs().reshape(len(weight), -1).amax(1)
    return (peak / qmax).clamp_min(torch.finfo(torch.float32).tiny)


def least_error_scale(weight: Tensor, qmax: int) -> Tensor:
    """Scales (out,) with the least squared error of each channel, among clipped ranges."""
    flat = weight.reshape(len(weight), -1)
    best = full = largest_scale(weight, qmax)
    least = torch.full_like(full, float("inf"))
    for cut in range(_CUTS, 0, -1):
        scale = (full * (cut / _CUTS)).clamp_min(torch.finfo(torch.float32).tiny)
        step = scale[:, None]
        error = ((flat / step).round().clamp(-qmax, qmax) * step - flat).square().sum(1)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return best


class FakeQuantizer(nn.Module):
    """One scale and zero point for all points of a quantization group.

    ``mode`` says what becomes of the calibrated range in training:

    - ``learned``: the scale follows LSQ's gradient (Esser et al., 2020) times ``1 / sqrt(n qmax)``
      for the n values of *one image*: loss and weights' gradients are summed over the batch too,
      so the ratio of both must not depend on its size. It is taken on the scale's logarithm as in
      TQT (Jain et al., 2020): a step of an optimizer is relative to the scale and cannot go past
      zero. It stays within a factor of 4 of its calibrated value, the zero point stays as it is.
    - ``ema``: a moving average of the extremes of each batch, while ``moving``.
    - ``fixed``: it stays.

    0.0 is always represented exactly. A ``symmetric`` range has its zero point in the middle.
    """

    log_scale: Tensor
    calibrated: Tensor
    zero: Tensor

    def __init__(self, symmetric: bool = False) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.mode: RangeMode = "learned"
        self.moving = False
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.register_buffer("calibrated", torch.zeros(1))
        # not an integer, so that the moving average of the weights takes it along
        self.register_buffer("zero", torch.zeros(1))
        self._seen: tuple[Tensor, Tensor] | None = None

    @property
    def scale(self) -> Tensor:
        """Width of one step of the grid, (1,); carries a gradient where it is learned."""
        if self.mode != "learned":
            return self.calibrated.exp()
        return _within_reach(self.log_scale, self.calibrated)

    @property
    def zero_point(self) -> Tensor:
        """The integer that stands for 0.0, (1,)."""
        return self.zero.round().to(torch.int32)

    def set_range(self, low: float, high: float, fixed: bool = False) -> None:
        """Cover ``low`` to ``high``, stretched to contain 0; a range of no width becomes 0 to 1.

        A ``fixed`` range (a sigmoid's) is known for certain and not trained.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if high - low <= 0.0:
            high = 1.0
        if self.symmetric:
            self.set_scale(max(max(-low, high) / (QMAX - MIDDLE), LEAST_SCALE), MIDDLE)
        else:
            scale = max((high - low) / (QMAX - QMIN), LEAST_SCALE)
            self.set_scale(scale, min(max(round(-low / scale), QMIN), QMAX))
        self.mode = "fixed" if fixed else "learned"

    def set_scale(self, scale: float, zero_point: int) -> None:
        """Take over a known scale and zero point."""
        self.log_scale.data.fill_(math.log(scale))
        self.calibrated.fill_(math.log(scale))
        self.zero.fill_(zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape, images first, rounded to the grid."""
        x = x.float()
        if self.moving and self.training:
            self._watch(x.detach())
        factor = 1.0 / math.sqrt(x[0].numel() * QMAX)
        return round_to_grid(x, self.scale, self.zero, factor)

    def _watch(self, x: Tensor) -> None:
        """Remember the extremes over all points of the group until ``move``."""
        low, high = torch.aminmax(x)
        if self._seen is not None:
            low, high = torch.minimum(low, self._seen[0]), torch.maximum(high, self._seen[1])
        self._seen = low, high

    def forget(self) -> None:
        """Drop extremes of a batch that was not finished."""
        self._seen = None

    @torch.no_grad()
    def move(self) -> None:
        """Draw the range towards the extremes seen since the last call."""
        if self._seen is None:
            return
        (low, high), self._seen = self._seen, None
        low, high, scale = low.clamp_max(0.0), high.clamp_min(0.0), self.scale
        if self.symmetric:
            wide = torch.maximum(-low, high) / (QMAX - MIDDLE)
            moved = torch.lerp(scale, wide, MOMENTUM).clamp_min(LEAST_SCALE)
        else:
            least = torch.lerp((QMIN - self.zero) * scale, low, MOMENTUM)
            most = torch.lerp((QMAX - self.zero) * scale, high, MOMENTUM)
            moved = ((most - least) / (QMAX - QMIN)).clamp_min(LEAST_SCALE)
            self.zero.copy_((-least / moved).clamp(QMIN, QMAX))
        self.calibrated.copy_(moved.log())
        self.log_scale.copy_(self.calibrated)
