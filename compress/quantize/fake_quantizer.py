"""Fake quantization of activations and weights: round to INT8's grid, keep float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from export.ranges import QMAX, QMIN

WEIGHT_MAX = 127  # symmetric and narrow: -127..127


def quantize_weight(weight: Tensor) -> Tensor:
    """Each output channel of ``weight`` (out, in, kh, kw) on its own symmetric INT8 grid.

    The scale of a channel is its largest magnitude / 127. Gradients pass straight through.
    """
    channels = weight.shape[0]
    peak = weight.detach().abs().reshape(channels, -1).amax(1)
    scale = (peak / WEIGHT_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    zero_point = torch.zeros(channels, dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(
        weight, scale, zero_point, 0, -WEIGHT_MAX, WEIGHT_MAX
    )


class FakeQuantizer(nn.Module):
    """One scale and zero point for all points of a quantization group.

    The scale is learned (LSQ, Esser et al. 2020, with gradient scale ``1 / sqrt(n * qmax)``), the
    zero point stays where calibration put it, so that 0.0 is always represented exactly.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        # an integer: the moving average of the weights leaves it alone
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))

    def set_range(self, low: float, high: float) -> None:
        """Cover ``low`` to ``high``, stretched to contain 0; a range of no width becomes 0 to 1."""
        low, high = min(low, 0.0), max(high, 0.0)
        if high - low <= 0.0:
            high = 1.0
        scale = (high - low) / (QMAX - QMIN)
        self.scale.data.fill_(scale)
        self.zero_point.fill_(min(max(round(-low / scale), QMIN), QMAX))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape, rounded to the grid."""
        factor = 1.0 / math.sqrt(x.numel() * QMAX)
        # one fused kernel for value and both gradients; plain tensor operations take 5x the time
        return torch._fake_quantize_learnable_per_tensor_affine(
            x.float(), self.scale, self.zero_point.float(), QMIN, QMAX, factor
        )
