"""Fake quantization of activations and weights: round to INT8's grid, keep float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from export.ranges import QMAX, QMIN

MAX_CHANGE = 4.0  # of a trained scale against its calibrated value
LEAST_SCALE = torch.finfo(torch.float32).eps  # keeps values / scale far from overflow


class WeightQuantizer(nn.Module):
    """Rounds each output channel of one convolution's weight to its own symmetric grid.

    The scale of a channel is its largest magnitude / qmax, qmax = 2^(bits - 1) - 1.
    """

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.qmax = 2 ** (bits - 1) - 1

    def scale(self, weight: Tensor) -> Tensor:
        """Width of a step in each channel, (out,), above 0."""
        peak = weight.detach().abs().reshape(len(weight), -1).amax(1)
        return (peak / self.qmax).clamp_min(torch.finfo(torch.float32).tiny)

    def forward(self, weight: Tensor) -> Tensor:
        """``weight`` (out, in, kh, kw) rounded; gradients pass straight through."""
        zero_point = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(
            weight, self.scale(weight), zero_point, 0, -self.qmax, self.qmax
        )


class FakeQuantizer(nn.Module):
    """One scale and zero point for all points of a quantization group.

    The scale is learned: the gradient is LSQ's (Esser et al., 2020), times ``1 / sqrt(n qmax)`` and
    taken on the scale's logarithm as in TQT (Jain et al., 2020), so that a step of an optimizer is
    relative to the scale and cannot go past zero. It stays within a factor of 4 of its calibrated
    value. The zero point stays where calibration put it: 0.0 is always represented exactly.
    """

    log_scale: Tensor
    calibrated: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.register_buffer("calibrated", torch.zeros(1))
        # an integer: the moving average of the weights leaves it alone
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self.fixed = False

    @property
    def scale(self) -> Tensor:
        """Width of one step of the grid, (1,); carries a gradient unless the range is fixed."""
        log_scale = self.log_scale.detach() if self.fixed else self.log_scale
        reach = math.log(MAX_CHANGE)
        return log_scale.clamp(self.calibrated - reach, self.calibrated + reach).exp()

    def set_range(self, low: float, high: float, fixed: bool = False) -> None:
        """Cover ``low`` to ``high``, stretched to contain 0; a range of no width becomes 0 to 1.

        A ``fixed`` range (a sigmoid's) is known for certain and not trained.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        if high - low <= 0.0:
            high = 1.0
        scale = max((high - low) / (QMAX - QMIN), LEAST_SCALE)
        self.set_scale(scale, min(max(round(-low / scale), QMIN), QMAX))
        self.fixed = fixed

    def set_scale(self, scale: float, zero_point: int) -> None:
        """Take over a known scale and zero point."""
        self.log_scale.data.fill_(math.log(scale))
        self.calibrated.fill_(math.log(scale))
        self.zero_point.fill_(zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape, rounded to the grid."""
        factor = 1.0 / math.sqrt(x.numel() * QMAX)
        # one fused kernel for value and both gradients; plain tensor operations take 5x the time
        return torch._fake_quantize_learnable_per_tensor_affine(
            x.float(), self.scale, self.zero_point.float(), QMIN, QMAX, factor
        )
