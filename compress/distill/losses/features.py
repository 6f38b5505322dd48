"""Losses on feature maps (N, C, H, W), in float32. Weight 1 suits any C, H, W: all are means."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.distill.losses.divergences import softmax_kl
from compress.distill.losses.shapes import same_shape

_TINY = 1e-12
_BOXES_AT_ONCE = 1024  # bounds memory: crowded batches have thousands of boxes


def cwd(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Channel-wise distillation: each channel's map as a distribution over positions.

    ``tau^2 / C * sum_c KL(softmax_hw(teacher / tau) || softmax_hw(student / tau))``.
    Source: Shu et al., Channel-wise knowledge distillation for dense prediction (2021), eq. 4.

    Args:
        student: (N, C, H, W).
        teacher: the same shape; gets no gradient.
        temperature: tau, above 0.

    Returns:
        (N,), 0 where both agree up to a constant in each channel.

    Raises:
        CompressError: if the shapes differ.
    """
    same_shape("cwd: features", student, teacher)
    return softmax_kl(_flat(student), _flat(teacher), -1, temperature).mean(1)


def mimic(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference.

    Source: Li et al., Mimicking very efficient network for object detection (2017), over
    whole maps. Of a generated map it is the loss of Yang et al., MGD (2022).

    Args:
        student: (N, C, H, W).
        teacher: the same shape; gets no gradient.

    Returns:
        (N,).

    Raises:
        CompressError: if the shapes differ.
    """
    same_shape("mimic: features", student, teacher)
    return (student.float() - teacher.detach().float()).square().mean((1, 2, 3))


def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - Pearson's correlation of each channel, as half the MSE of standardised maps.

    Channels are standardised over N, H, W of this batch, with 1e-6 added to the variance; no
    statistics are kept. Scale and offset of a channel do not matter.
    Source: Cao et al., PKD (2022).

    Args:
        student: (N, C, H, W).
        teacher: the same shape; gets no gradient.

    Returns:
        (N,); the mean over them is within 0..2.

    Raises:
        CompressError: if the shapes differ.
    """
    same_shape("pkd: features", student, teacher)
    difference = _standardised(student) - _standardised(teacher.detach())
    return difference.square().mean((1, 2, 3)) / 2


def at(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer: squared distance of the maps of energy, each of length 1.

    A map is the mean over channels of the squared feature. The sum over positions is taken, not
    their mean, so that the loss does not vanish as maps grow.
    Source: Zagoruyko and Komodakis, Paying more attention to attention (2017).

    Args:
        student: (N, C, H, W).
        teacher: (N, any channels, H, W); gets no gradient.

    Returns:
        (N,) within 0..2.

    Raises:
        CompressError: if the sizes of the maps differ.
    """
    same_shape("at: maps", student[:, :1], teacher[:, :1])
    return (_energy(student) - _energy(teacher.detach())).square().sum(1)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference, weighted by how much a position differs from the teacher.

    A position's weight is ``tanh(d / mean d)`` with d the mean absolute difference over channels,
    scaled to mean 1 in each image. Weights carry no gradient and nothing in them is trained: a
    trained map of weights would learn to be 0 everywhere.

    Args:
        student: (N, C, H, W).
        teacher: the same shape; gets no gradient.

    Returns:
        (N,), that of ``mimic`` where all positions differ alike.

    Raises:
        CompressError: if the shapes differ.
    """
    same_shape("attention: features", student, teacher)
    difference = _flat(student) - _flat(teacher).detach()
    size = difference.detach().abs().mean(1, keepdim=True)
    weights = torch.tanh(_of_mean_one(size))
    return (_of_mean_one(weights) * difference.square()).mean((1, 2))


def fgd(
    student: Tensor,
    teacher: Tensor,
    boxes: Tensor,
    temperature: float = 0.5,
    foreground: float = 1.0,
    background: float = 0.5,
    attention: float = 1.0,
) -> Tensor:
    """The focal part of focal and global distillation; ``bridges.relation`` is the global part.

    Squared differences, weighted by the teacher's attention to the position and to the channel,
    averaged over the foreground (large and small boxes count alike) and over the background, plus
    the mean absolute difference of the attentions themselves. Where the paper takes sums, these
    are means, so shares need not follow the maps' size.
    Source: Yang et al., Focal and global knowledge distillation for detectors (2022).

    Args:
        student: (N, C, H, W).
        teacher: the same shape; gets no gradient.
        boxes: (M, 5): the image's index, then x1, y1, x2, y2 as shares (0..1) of the map.
        temperature: of the attentions' softmax, above 0.
        foreground: share of what lies in boxes.
        background: share of the rest.
        attention: share of the attentions' difference.

    Returns:
        (N,).

    Raises:
        CompressError: if the shapes differ.
    """
    same_shape("fgd: features", student, teacher)
    ours, theirs = _flat(student), _flat(teacher).detach()
    positions, channels = _attentions(theirs, temperature)
    our_positions, our_channels = _attentions(ours, temperature)
    inside = foreground_mask(boxes, student.shape[0], student.shape[2], student.shape[3]).flatten(1)
    outside = (inside == 0).float()
    squares = ((ours - theirs).square() * channels.unsqueeze(2)).mean(1) * positions
    focus = (our_positions - positions).abs().mean(1) + (our_channels - channels).abs().mean(1)
    return (
        foreground * _weighted_mean(squares, inside)
        + background * _weighted_mean(squares, outside)
        + attention * focus
    )


def foreground_mask(boxes: Tensor, images: int, height: int, width: int) -> Tensor:
    """1 / cells of the box in cells that a box touches, the highest where boxes overlap.

    Args:
        boxes: (M, 5): the image's index, then x1, y1, x2, y2 as shares (0..1) of the map. A box
            touches at least one cell.
        images: N.
        height: H in cells.
        width: W in cells.

    Returns:
        (N, H, W) in float32, 0 in the background.
    """
    mask = torch.zeros(images, height, width, device=boxes.device)
    for some in torch.split(boxes, _BOXES_AT_ONCE):
        columns = _touched(some[:, 1], some[:, 3], width)
        rows = _touched(some[:, 2], some[:, 4], height)
        touched = rows.unsqueeze(2) * columns.unsqueeze(1)
        cells = (rows.sum(1) * columns.sum(1)).view(-1, 1, 1)
        mask.index_reduce_(0, some[:, 0].long(), touched / cells, "amax")
    return mask


def _touched(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Which of the cells along one axis each box touches, (M, cells) of 0 and 1."""
    first = (low.float() * cells).floor().clamp(0, cells - 1)
    end = (high.float() * cells).ceil().clamp(max=cells).maximum(first + 1)
    number = torch.arange(cells, device=low.device)
    return ((number >= first.unsqueeze(1)) & (number < end.unsqueeze(1))).float()


def _attentions(flat: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """To positions (N, H * W) and to channels (N, C), each of mean 1."""
    sizes = flat.abs()
    positions = F.softmax(sizes.mean(1) / temperature, 1) * flat.shape[2]
    channels = F.softmax(sizes.mean(2) / temperature, 1) * flat.shape[1]
    return positions, channels


def _flat(features: Tensor) -> Tensor:
    """(N, C, H * W) in float32: half precision overflows; memory order may be NHWC."""
    return features.float().reshape(*features.shape[:2], -1)


def _standardised(features: Tensor) -> Tensor:
    values = features.float()
    variance, mean = torch.var_mean(values, (0, 2, 3), correction=0, keepdim=True)
    return (values - mean) * torch.rsqrt(variance + 1e-6)


def _energy(features: Tensor) -> Tensor:
    """(N, H * W) of length 1."""
    flat = _flat(features)
    # length 1 undoes any scale: this one only keeps squares of squares within range
    scaled = flat / flat.detach().abs().amax((1, 2), keepdim=True).clamp(min=_TINY)
    return F.normalize(scaled.square().mean(1), dim=1)


def _of_mean_one(values: Tensor) -> Tensor:
    """``values`` (N, 1, H * W) scaled to mean 1 in each image; all 0 stays."""
    return values / values.mean(2, keepdim=True).clamp(min=_TINY)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Of each row; 0 where all weights are."""
    return (values * weights).sum(1) / weights.sum(1).clamp(min=_TINY)
