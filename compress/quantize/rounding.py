"""Rounding to an integer grid whose step may be learned; gradients pass straight through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from export.ranges import QMAX, QMIN


def round_to_grid(x: Tensor, scale: Tensor, zero: Tensor, factor: float) -> Tensor:
    """``x`` on the grid ``(q - zero) * scale``, q = 0..255.

    The gradient of ``x`` passes straight through inside the range and stops outside. That of the
    scale is LSQ's (Esser et al., 2020): ``q - zero - x / scale`` inside, the clipped integer
    outside, times ``factor``.

    Args:
        x: float32 of any shape.
        scale: (1,) step of the grid, above 0.
        zero: (1,) float, rounded here: the integer that stands for 0.0.
        factor: multiplies the scale's gradient.
    """
    if x.is_cuda:  # one fused kernel, and nothing that waits for the GPU
        # a moving range changes its zero point before the backward pass, which needs the old one
        zero = zero.clone()
        return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, QMIN, QMAX, factor)
    rounded: Tensor = _RoundToGrid.apply(x, scale, zero, factor)
    return rounded


def round_channels(weight: Tensor, scale: Tensor, qmax: int, factor: float) -> Tensor:
    """``weight`` on the grid of each channel, ``q * scale``, q = -qmax..qmax.

    Gradients as in ``round_to_grid``; a scale without gradient is taken to clip nothing.

    Args:
        weight: float32 (out, in, kh, kw).
        scale: (out,), above 0.
        qmax: largest integer.
        factor: multiplies the scale's gradient.
    """
    rounded: Tensor = _RoundChannels.apply(weight, scale, qmax, factor)
    return rounded


class _RoundToGrid(torch.autograd.Function):
    """The same on a CPU, where torch's kernels are scalar code and take five times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, factor: float) -> Tensor:
        step, least = float(scale), QMIN - round(float(zero))
        most = least + QMAX - QMIN
        y = torch.mul(x, 1.0 / step).round_().clamp_(least, most).mul_(step)
        ctx.save_for_backward(x, y)
        ctx.ends = ((least - 0.5) * step, (most + 0.5) * step)  # what still rounds into the range
        ctx.step, ctx.factor = step, factor
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, y = ctx.saved_tensors
        # 0 outside of the ends, in one pass
        inside = torch.ops.aten.hardtanh_backward(gradient, x, *ctx.ends)
        of_scale = None
        if ctx.needs_input_grad[1]:
            # y / scale - (x / scale where it is inside), summed
            total = _dot(gradient, y) - _dot(inside, x)
            of_scale = (total * (ctx.factor / ctx.step)).reshape(1)
        return inside, of_scale, None, None


class _RoundChannels(torch.autograd.Function):
    """Plain operations: weights are few, and torch's kernel is scalar code on a CPU."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, qmax: int, factor: float) -> Tensor:
        step = scale.reshape(-1, *[1] * (weight.dim() - 1))
        y = torch.mul(weight, step.reciprocal()).round_().clamp_(-qmax, qmax).mul_(step)
        ctx.qmax, ctx.factor = qmax, factor
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(weight, step, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if not ctx.needs_input_grad[1]:
            return gradient, None, None, None
        weight, step, y = ctx.saved_tensors
        end = ctx.qmax + 0.5
        inside = torch.ops.aten.hardtanh_backward(gradient, weight / step, -end, end)
        total = (gradient * y - inside * weight).flatten(1).sum(1)
        return inside, total * ctx.factor / step.flatten(), None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a.flatten().dot(b.flatten())
