"""Importance of channels: pure functions over the tensors of one dependency group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def squared_norms(weight: Tensor, side: str, positions: Tensor) -> Tensor:
    """Squared L2 norm of each channel's slice of a convolution weight.

    Args:
        weight: (out, in, kh, kw).
        side: ``out`` for filters, ``in`` for the slices that read a channel.
        positions: (n,) index into the weight's channels.

    Returns:
        (n,) in float32.
    """
    weight = weight.detach().float()
    slices = weight if side == "out" else weight.transpose(0, 1)
    return slices[positions].flatten(1).pow(2).sum(1)


def group_magnitude(norms: Sequence[Tensor], channels: Sequence[Tensor], width: int) -> Tensor:
    """Mean over all coupled slices of each channel: channels that go together count together.

    Source: Fang et al., DepGraph (2023), section 3.3, mean reduction.

    Args:
        norms: one (n_i,) tensor for each coupled side of a layer.
        channels: for each of them, (n_i,) the group's channel that a slice belongs to; a channel
            that reaches a layer twice, through a concatenation, has two slices there.
        width: channels of the group.

    Returns:
        (width,) mean squared norm.
    """
    index = torch.cat(list(channels))
    total = torch.zeros(width).index_add_(0, index, torch.cat(list(norms)))
    return total / torch.bincount(index, minlength=width)


def lamp(magnitudes: Tensor) -> Tensor:
    """Layer-adaptive magnitude: each channel's share of all that are at least as large.

    ``score(u) = m(u) / sum(m(v) for v not before u)`` over squared magnitudes ``m`` in ascending
    order; equals stay in the order of their channels. Scores of different layers can be ranked
    together; a layer's best channel scores 1, so no layer vanishes.
    Source: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning (2021), equation 4.

    Args:
        magnitudes: (C,) squared magnitudes, 0 or larger.

    Returns:
        (C,) scores in (0, 1]; a channel of zeros scores 0 unless the whole layer is zero.
    """
    ordered, order = magnitudes.double().sort(stable=True)
    remaining = ordered.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(ordered)
    scores[order] = torch.where(remaining > 0, ordered / remaining.clamp_min(1e-300), 1.0)
    return scores
