"""Which cells of a head count, and how much."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.models.raw_outputs import RawOutputs


def per_image(values: Tensor, weights: Tensor) -> Tensor:
    """Sum of each image's cells such that the mean over images is ``sum(values) / sum(weights)``.

    The whole batch shares one divisor: an image in which the teacher sees next to nothing cannot
    explode, nor can a batch of such images, for the divisor is at least 1.

    Args:
        values: (N, A), already weighted.
        weights: (N, A), at least 0.

    Returns:
        (N,).
    """
    return values.sum(1) * (len(values) / weights.sum().clamp(min=1))


def peaks(outputs: RawOutputs) -> Tensor:
    """Cells that no neighbour of the same class outdoes, within 3x3 cells of their level.

    A cell's class is its best one. Cells that tie are all peaks.
    Source: Mehta and Ozturk, Object detection at 200 FPS (2018), with the best class score as
    objectness.

    Returns:
        (N, A), true at peaks.
    """
    best, classes = outputs.scores.detach().float().max(1, keepdim=True)  # logits: no ties at 1.0
    by_class = torch.full_like(outputs.scores, -torch.inf, dtype=torch.float32)
    by_class.scatter_(1, classes, best)
    highest = torch.cat(
        [
            F.max_pool2d(torch.unflatten(level, 2, (-1, width)), 3, stride=1, padding=1).flatten(2)
            for level, width in _levels(outputs, by_class)
        ],
        2,
    )
    return (best >= highest.gather(1, classes))[:, 0]


def _levels(outputs: RawOutputs, maps: Tensor) -> list[tuple[Tensor, int]]:
    """``maps`` (N, K, A) cut into levels, each with its cells a row."""
    counts = torch.unique_consecutive(outputs.strides, return_counts=True)[1].tolist()
    widths = [int((rows == rows[0]).sum()) for rows in torch.split(outputs.points[:, 1], counts)]
    return list(zip(torch.split(maps, counts, 2), widths, strict=True))
