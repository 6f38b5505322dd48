"""Class-wise non-maximum suppression of upright and of rotated boxes."""

from __future__ import annotations

import numpy as np

from deploy.arrays import Floats, Indices

_BLOCK = 256  # rotated boxes that are compared with all better ones at a time
_EPS = 1e-7


def suppress(
    boxes: Floats, scores: Floats, classes: Indices, limit: float, max_boxes: int
) -> Indices:
    """Indices of the boxes that stay, by falling score; the first of equal scores comes first.

    Args:
        boxes: (n, 4) as x1, y1, x2, y2, or (n, 5) as x, y, w, h and the angle in radians.
        scores: (n,).
        classes: (n,); boxes of different classes never touch each other.
        limit: an overlap above it drops the box with the lower score. Upright boxes are measured by
            IoU against those that stay, rotated ones by ProbIoU against all better ones.
        max_boxes: how many stay at most.
    """
    keep = _rotated if boxes.shape[1] == 5 else _upright
    order = np.argsort(-scores, kind="stable")
    stay = [np.zeros(0, np.int64)]
    for number in np.unique(classes):
        members = np.flatnonzero(classes[order] == number)
        stay.append(members[keep(boxes[order[members]], limit, max_boxes)])
    return order[np.sort(np.concatenate(stay))[:max_boxes]]


def _upright(boxes: Floats, limit: float, max_boxes: int) -> Indices:
    kept: list[np.int64] = []
    left = np.arange(len(boxes))
    while len(left) and len(kept) < max_boxes:
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[iou(boxes[best], boxes[left]) <= limit]
    return np.array(kept, np.int64)


def _rotated(boxes: Floats, limit: float, max_boxes: int) -> Indices:
    kept = np.zeros(0, np.int64)
    for start in range(0, len(boxes), _BLOCK):
        overlap = probiou(boxes[: start + _BLOCK], boxes[start : start + _BLOCK])
        # of each column only the rows of better boxes count
        better = np.triu(overlap, 1 - start) > limit
        kept = np.concatenate([kept, start + np.flatnonzero(~better.any(0))])
        if len(kept) >= max_boxes:
            break
    return kept[:max_boxes]


def iou(box: Floats, others: Floats) -> Floats:
    """Intersection over union of one box (4,) with ``others`` (n, 4): (n,), 0 to 1."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    both = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    return np.asarray(np.divide(shared, both, out=np.zeros_like(shared), where=both > 0))


def probiou(boxes: Floats, others: Floats) -> Floats:
    """Overlap of rotated boxes (n, 5) and (m, 5) taken as Gaussians: (n, m), 0 to 1.

    One minus the Hellinger distance (Llerena et al., Gaussian bounding boxes and probabilistic
    intersection-over-union, 2021).
    """
    ours, theirs = boxes[:, None], others[None]
    a1, b1, c1 = _covariance(ours)
    a2, b2, c2 = _covariance(theirs)
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    x, y = theirs[..., 0] - ours[..., 0], ours[..., 1] - theirs[..., 1]
    area = a * b - c**2
    apart = (a * y**2 + b * x**2) / (area + _EPS) / 4 + c * x * y / (area + _EPS) / 2
    own = np.clip(a1 * b1 - c1**2, 0, None) * np.clip(a2 * b2 - c2**2, 0, None)
    shape = np.log(area / (4 * np.sqrt(own) + _EPS) + _EPS) / 2
    distance = np.clip(apart + shape, _EPS, 100)
    return np.asarray(1 - np.sqrt(1 - np.exp(-distance) + _EPS))


def _covariance(boxes: Floats) -> tuple[Floats, Floats, Floats]:
    """Of each box (..., 5): the variances along x and y, and their covariance."""
    along, across = boxes[..., 2] ** 2 / 12, boxes[..., 3] ** 2 / 12
    cos, sin = np.cos(boxes[..., 4]), np.sin(boxes[..., 4])
    a, b = along * cos**2 + across * sin**2, along * sin**2 + across * cos**2
    return a, b, np.asarray((along - across) * cos * sin)
