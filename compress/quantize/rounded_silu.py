"""Convolution's output -> SiLU -> result, rounded at all three points: a step's dearest part.

Behind the first rounding there are 256 values, so the rest is a table of 256 entries: what is
looked up need not be computed. It takes half the time of doing one point after another on a CPU.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compress.quantize.fake_quantizer import FakeQuantizer
from export.ranges import QMAX, QMIN


def can_look_up(x: Tensor, *quantizers: FakeQuantizer) -> bool:
    """Whether ``rounded_silu`` is the way: a training step on a CPU in which no range moves."""
    trains = all(quantizer.training and not quantizer.moving for quantizer in quantizers)
    return trains and not x.is_cuda


def rounded_silu(
    x: Tensor, before: FakeQuantizer, sigmoid: FakeQuantizer, behind: FakeQuantizer
) -> Tensor:
    """``behind(y * sigmoid(torch.sigmoid(y)))`` with ``y = before(x)``, and its gradients.

    Args:
        x: the convolution's output, images first.
        before: rounds it.
        sigmoid: rounds the sigmoid; its range is fixed, and gets no gradient.
        behind: rounds the product.
    """
    x = x.float()
    factor = 1.0 / math.sqrt(x[0].numel() * (QMAX - QMIN))
    with torch.no_grad():
        gate = (sigmoid.scale, sigmoid.zero)
    out: Tensor = _RoundedSilu.apply(
        x, before.scale, behind.scale, before.zero, gate, behind.zero, factor
    )
    return out


class _Grid:
    """The values ``q * step`` for q from ``least`` on."""

    def __init__(self, scale: Tensor, zero: Tensor) -> None:
        self.step = float(scale)
        self.least = QMIN - round(float(zero))
        self.most = self.least + QMAX - QMIN

    def integers(self, x: Tensor) -> Tensor:
        return torch.mul(x, 1.0 / self.step).round_().clamp_(self.least, self.most)

    def inside(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient where ``x`` is not clipped, else 0."""
        ends = (self.least - 0.5) * self.step, (self.most + 0.5) * self.step
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, *ends)
        return passed


class _RoundedSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        out_scale: Tensor,
        zero: Tensor,
        gate: tuple[Tensor, Tensor],
        out_zero: Tensor,
        factor: float,
    ) -> Tensor:
        grid, gates, outs = _Grid(scale, zero), _Grid(*gate), _Grid(out_scale, out_zero)
        integers = grid.integers(x)
        # a NaN has no place in the table: it is put back below, so that the trainer can tell it
        index = integers.nan_to_num(0.0).flatten().to(torch.int32).sub_(grid.least)
        values = torch.arange(grid.least, grid.most + 1, dtype=x.dtype) * grid.step
        smooth = torch.sigmoid(values)
        gated = gates.integers(smooth) * gates.step
        product = values * gated
        results = outs.integers(product) * outs.step
        slopes = outs.inside(gated + values * smooth * (1 - smooth), product)
        of_out = (results - outs.inside(product, product)) * (factor / outs.step)
        ctx.grid, ctx.factor = grid, factor
        ctx.save_for_backward(x, integers, index, slopes, of_out)
        y = results.index_select(0, index).view(x.shape)
        return y.fill_(math.nan) if math.isnan(float(integers.sum())) else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, integers, index, slopes, of_out = ctx.saved_tensors
        of_scale = of_out_scale = None
        if ctx.needs_input_grad[2]:
            of_out_scale = gradient.flatten().dot(of_out.index_select(0, index)).reshape(1)
        of_y = slopes.index_select(0, index).view(x.shape).mul_(gradient)
        of_x = ctx.grid.inside(of_y, x)
        if ctx.needs_input_grad[1]:
            total = _dot(of_y, integers) - _dot(of_x, x) / ctx.grid.step
            of_scale = (total * ctx.factor).reshape(1)
        return of_x, of_scale, of_out_scale, None, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a.flatten().dot(b.flatten())
