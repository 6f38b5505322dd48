"""What a training step does to a weight in place of rounding all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class WeightNoise:
    """``full`` rounds everything, ``share`` a random share, ``uniform`` adds half a step of noise.

    Random numbers are torch's own, so that an epoch's depend on its seed alone.
    """

    kind: Literal["full", "share", "uniform"] = "full"
    share: float = 1.0


def mixed(weight: Tensor, rounded: Tensor, share: float) -> Tensor:
    """``rounded`` at a random ``share`` of the elements, ``weight`` at the others.

    Source: Fan et al., Training with quantization noise for extreme model compression (2020).
    """
    return torch.where(torch.rand_like(weight) < share, rounded, weight)


def with_uniform_noise(weight: Tensor, scale: Tensor, qmax: int) -> Tensor:
    """``weight`` plus U(-s/2, s/2), as far off as rounding; clipped where the scale is learned.

    Noise and ends of the range carry the gradient of a learned scale.
    Source: Defossez et al., Differentiable model compression via pseudo quantization noise (2021).

    Args:
        weight: (out, in, kh, kw).
        scale: (out,) step of each channel; one without gradient is taken to clip nothing.
        qmax: largest integer of the grid.
    """
    step = scale.reshape(-1, *[1] * (weight.dim() - 1))
    noise = (torch.rand_like(weight) - 0.5) * step
    if not scale.requires_grad:
        return weight + noise
    return torch.minimum(torch.maximum(weight, -qmax * step), qmax * step) + noise
