"""Importance of channels: pure functions over the tensors of one dependency group.

All scores are 0 or larger and compare channels of different groups. ``taylor`` and ``hessian``
estimate the rise of the loss, so they do by nature; ``lamp``, ``l1``, ``l2`` and ``group_norm`` are
taken relative to their group, because magnitudes of layers of different size do not; ``bn_scale``
compares BatchNorm's scales as they are, as slimming does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slices:
    """One coupled side of a convolution, cut into the slices of the group's channels.

    ``weight`` (n, k) float32; ``channels`` (n,) the group's channel that each slice belongs to: a
    channel that reaches a layer twice, through a concatenation, has two slices there. ``side`` is
    ``out`` for filters, ``in`` for what reads the channels. ``scale`` (n,) is gamma of the
    BatchNorm behind a filter; None for ``in`` or without one. ``gradient`` (n, k) is the mean
    gradient of the loss (for taylor), ``curvature`` (n, k) the mean of squared gradients of single
    images (for hessian).
    """

    weight: Tensor
    channels: Tensor
    side: str
    scale: Tensor | None = None
    gradient: Tensor | None = None
    curvature: Tensor | None = None


Score = Callable[[Sequence[Slices], int], Tensor]


def cut_slices(weight: Tensor, side: str, positions: Tensor) -> Tensor:
    """The slices of a convolution's weight (or gradient) that belong to ``positions``.

    Args:
        weight: (out, in, kh, kw).
        side: ``out`` for filters, ``in`` for the slices that read a channel.
        positions: (n,) index into the weight's channels.

    Returns:
        (n, k) float32; k is in*kh*kw for filters, out*kh*kw for what reads a channel.
    """
    weight = weight.detach().float()
    slices = weight if side == "out" else weight.transpose(0, 1)
    return slices[positions].flatten(1)


def lamp(slices: Sequence[Slices], width: int) -> Tensor:
    """Layer-adaptive magnitude: each channel's share of all that are at least as large.

    The magnitude is the mean squared L2 norm over all coupled slices of a channel.
    Sources: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning (2021), equation
    4; coupled slices: Fang et al., DepGraph (2023), section 3.3, mean reduction.

    Args:
        slices: all coupled sides of the group.
        width: channels of the group.

    Returns:
        (width,) in [0, 1]. A group's best channel scores 1, so no layer vanishes; a channel of
        zeros scores 0 unless the whole group is zero.
    """
    norms = [part.weight.pow(2).sum(1) for part in slices]
    return lamp_shares(_channel_mean(norms, slices, width))


def lamp_shares(magnitudes: Tensor) -> Tensor:
    """``m(u) / sum(m(v) for v not before u)`` over magnitudes in ascending order.

    Equals stay in the order of their channels, so that a later one scores higher.

    Args:
        magnitudes: (C,) squared magnitudes, 0 or larger.

    Returns:
        (C,) float64 in [0, 1].
    """
    ordered, order = magnitudes.double().sort(stable=True)
    remaining = ordered.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(ordered)
    scores[order] = torch.where(remaining > 0, ordered / remaining.clamp_min(1e-300), 1.0)
    return scores


def l1(slices: Sequence[Slices], width: int) -> Tensor:
    """L1 norm of a channel's filters, relative to the group's mean.

    Source: Li et al., Pruning filters for efficient ConvNets (2017), section 3.1; there layers are
    pruned by rates of their own, the division by the mean is what makes one ranking of all layers.

    Args:
        slices: all coupled sides of the group; only filters count, the mean over them where
            several layers are added up.
        width: channels of the group.

    Returns:
        (width,) with mean 1; all 0 for a group of zeros.
    """
    filters = _filters(slices)
    norms = [part.weight.abs().sum(1) for part in filters]
    return _relative(_channel_mean(norms, filters, width))


def l2(slices: Sequence[Slices], width: int) -> Tensor:
    """L2 norm of a channel's filters, relative to the group's mean.

    Source: as ``l1``; the L2 norm in its place is compared there in section 4.4.

    Args:
        slices: all coupled sides of the group; only filters count.
        width: channels of the group.

    Returns:
        (width,) with mean 1; all 0 for a group of zeros.
    """
    filters = _filters(slices)
    norms = [part.weight.norm(dim=1) for part in filters]
    return _relative(_channel_mean(norms, filters, width))


def bn_scale(slices: Sequence[Slices], width: int) -> Tensor:
    """Mean absolute gamma of the BatchNorms behind a channel's filters.

    A group with channels that no BatchNorm follows is scored by ``l2``: its mean of 1 is where
    gammas begin.
    Source: Liu et al., Learning efficient convolutional networks through network slimming (2017),
    section 3: one threshold for the gammas of all layers.

    Args:
        slices: all coupled sides of the group.
        width: channels of the group.

    Returns:
        (width,) 0 or larger.
    """
    normed = [part for part in slices if part.scale is not None]
    if len({channel for part in normed for channel in part.channels.tolist()}) < width:
        return l2(slices, width)
    gammas = [part.scale.detach().float().abs() for part in normed if part.scale is not None]
    return _channel_mean(gammas, normed, width)


def group_norm(slices: Sequence[Slices], width: int) -> Tensor:
    """L2 norm over all coupled slices of a channel, relative to the group's mean.

    Source: Fang et al., DepGraph: towards any structural pruning (2023), section 3.3.

    Args:
        slices: all coupled sides of the group.
        width: channels of the group.

    Returns:
        (width,) with mean 1; all 0 for a group of zeros.
    """
    norms = [part.weight.pow(2).sum(1) for part in slices]
    return _relative(_channel_sum(norms, slices, width).sqrt())


def taylor(slices: Sequence[Slices], width: int) -> Tensor:
    """Squared first-order estimate of how much the loss changes without the channel.

    ``(sum(g * w))^2`` over all weights that go with it.
    Source: Molchanov et al., Importance estimation for neural network pruning (2019), equation 8.

    Args:
        slices: all coupled sides of the group, with ``gradient``.
        width: channels of the group.

    Returns:
        (width,) 0 or larger, in units of the squared loss.

    Raises:
        ValueError: if a gradient is missing.
    """
    changes = [(_given(part.gradient) * part.weight).sum(1) for part in slices]
    return _channel_sum(changes, slices, width).double().pow(2)  # float32 would underflow


def hessian(slices: Sequence[Slices], width: int) -> Tensor:
    """Second-order estimate of how much the loss rises without the channel.

    ``sum(h * w^2 / 2)`` over all weights that go with it, where the diagonal ``h`` of the Hessian
    is that of the empirical Fisher matrix: the mean of squared gradients of single images.
    Sources: LeCun et al., Optimal brain damage (1990), equation 5; Fisher diagonal: Theis et al.,
    Faster gaze prediction with dense networks and Fisher pruning (2018), section 2.2.

    Args:
        slices: all coupled sides of the group, with ``curvature``.
        width: channels of the group.

    Returns:
        (width,) 0 or larger, in units of the loss.

    Raises:
        ValueError: if a curvature is missing.
    """
    rises = [(_given(part.curvature) * part.weight.pow(2)).sum(1) / 2 for part in slices]
    return _channel_sum(rises, slices, width)


def random_score(seed: int) -> Score:
    """The control: uniform numbers that only the seed and the group's weights decide.

    Two groups of equal width draw different numbers, one group draws the same ones each time.
    """

    def score(slices: Sequence[Slices], width: int) -> Tensor:
        content = zlib.crc32(str(seed).encode())
        for part in slices:
            content = zlib.crc32(part.weight.contiguous().cpu().numpy().tobytes(), content)
        generator = torch.Generator().manual_seed(content)  # it takes 32 bits
        return torch.rand(width, generator=generator)

    return score


SCORES: Mapping[str, Score] = MappingProxyType(
    {score.__name__: score for score in (lamp, l1, l2, bn_scale, group_norm, taylor, hessian)}
)


def _channel_sum(values: Sequence[Tensor], slices: Sequence[Slices], width: int) -> Tensor:
    """(width,) sum of ``values``, one (n,) tensor for each of ``slices``, over a channel."""
    index = torch.cat([part.channels for part in slices])
    return torch.zeros(width).index_add_(0, index, torch.cat(list(values)))


def _channel_mean(values: Sequence[Tensor], slices: Sequence[Slices], width: int) -> Tensor:
    index = torch.cat([part.channels for part in slices])
    return _channel_sum(values, slices, width) / torch.bincount(index, minlength=width)


def _relative(values: Tensor) -> Tensor:
    mean = values.mean()
    return values / mean if mean > 0 else values


def _filters(slices: Sequence[Slices]) -> list[Slices]:
    return [part for part in slices if part.side == "out"]


def _given(values: Tensor | None) -> Tensor:
    if values is None:
        raise ValueError(
            "this score needs gradients of the loss, and a layer of the group has none"
        )
    return values
