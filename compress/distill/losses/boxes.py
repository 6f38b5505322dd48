"""How far boxes are apart: box i of the student from box i of the teacher, never all pairs.

Boxes are (N, 4, A): x1, y1, x2, y2 in pixels. One whose sides are negative counts as a point.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TINY = 1e-7  # pixels or pixels^2, against division by zero


def giou_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - GIoU, from 0 (equal) to 2 (far apart).

    Source: Rezatofighi et al., Generalized intersection over union (2019).

    Returns:
        (N, A) in float32.
    """
    ours, theirs = _proper(student), _proper(teacher.detach())
    overlap, union = _overlap_and_union(ours, theirs)
    hull = _area(_hull(ours, theirs))
    return (union - overlap) / (union + _TINY) + (hull - union) / (hull + _TINY)


def ciou_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - CIoU: overlap, distance of centres and shape, at least 0.

    The share of the shape carries no gradient, as published.
    Source: Zheng et al., Distance-IoU loss (2020).

    Returns:
        (N, A) in float32.
    """
    ours, theirs = _proper(student), _proper(teacher.detach())
    overlap, union = _overlap_and_union(ours, theirs)
    missed = (union - overlap) / (union + _TINY)
    diagonal = _sides(_hull(ours, theirs)).square().sum(1)
    apart = (_centres(ours) - _centres(theirs)).square().sum(1)
    shape = 4 / math.pi**2 * (_slant(ours) - _slant(theirs)).square()
    share = (shape / (missed + shape + _TINY)).detach()
    return missed + apart / (diagonal + _TINY) + share * shape


def _proper(boxes: Tensor) -> Tensor:
    """Float32 boxes without negative sides."""
    first, second = boxes.float().chunk(2, 1)
    return torch.cat([first, torch.maximum(first, second)], 1)


def _sides(boxes: Tensor) -> Tensor:
    return boxes[:, 2:] - boxes[:, :2]


def _area(boxes: Tensor) -> Tensor:
    sides = _sides(boxes)
    return sides[:, 0] * sides[:, 1]


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _slant(boxes: Tensor) -> Tensor:
    """Angle of the diagonal from the vertical, in radians."""
    sides = _sides(boxes)
    return torch.atan(sides[:, 0] / (sides[:, 1] + _TINY))


def _hull(first: Tensor, second: Tensor) -> Tensor:
    """The smallest boxes around both."""
    corners = torch.minimum(first[:, :2], second[:, :2])
    return torch.cat([corners, torch.maximum(first[:, 2:], second[:, 2:])], 1)


def _overlap_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    corners = torch.maximum(first[:, :2], second[:, :2])
    sides = (torch.minimum(first[:, 2:], second[:, 2:]) - corners).clamp(min=0)
    overlap = sides[:, 0] * sides[:, 1]
    return overlap, _area(first) + _area(second) - overlap
