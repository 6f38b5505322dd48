"""Losses on what heads of segmentation, pose and oriented boxes predict besides, in float32.

Cells count by the teacher's confidence, as in ``outputs``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.distill.losses.cells import per_image
from compress.distill.losses.divergences import bernoulli_kl
from compress.distill.losses.shapes import same_shape
from compress.errors import CompressError
from compress.models.raw_outputs import RawOutputs


def masks(student: RawOutputs, teacher: RawOutputs) -> Tensor:
    """Mean squared difference of mask coefficients plus that of prototypes.

    Returns:
        (N,).

    Raises:
        CompressError: if a net predicts none, or shapes differ.
    """
    coefficients = _difference("masks", "masks", student, teacher).square().mean(1)
    prototypes = _difference("masks", "prototypes", student, teacher).square().mean((1, 2, 3))
    return _confident(coefficients, teacher) + prototypes


def keypoints(student: RawOutputs, teacher: RawOutputs, values: int) -> Tensor:
    """Mean absolute difference of raw x and y, plus KL of visibility.

    Raw places of YOLO26 and of older families are on different scales: both nets must be of one.

    Args:
        student: raw outputs with keypoints (N, k * values, A).
        teacher: of the same shape; gets no gradient.
        values: of each keypoint: 2 (x, y) or 3 (and the logit of visibility).

    Returns:
        (N,).

    Raises:
        CompressError: if a net predicts none, or shapes differ.
    """
    ours, theirs = _pair("keypoints", "keypoints", student, teacher)
    ours, theirs = (torch.unflatten(side, 1, (-1, values)) for side in (ours, theirs))
    loss = (ours[:, :, :2] - theirs[:, :, :2]).abs().mean((1, 2))
    if values == 3:
        loss = loss + bernoulli_kl(ours[:, :, 2], theirs[:, :, 2]).mean(1)
    return _confident(loss, teacher)


def angle(student: RawOutputs, teacher: RawOutputs) -> Tensor:
    """``1 - cos(2 * difference)``: half a turn brings a box onto itself.

    Angles are in radians in the raw outputs of all families.

    Returns:
        (N,), 0 at equal directions to 2 at right angles, before weighting.

    Raises:
        CompressError: if a net predicts none, or shapes differ.
    """
    difference = _difference("angle", "angle", student, teacher)
    return _confident(2 * difference.sin().square().mean(1), teacher)  # exact for small angles


def _confident(values: Tensor, teacher: RawOutputs) -> Tensor:
    weights = teacher.confidence()
    return per_image(weights * values, weights)


def _pair(loss: str, name: str, student: RawOutputs, teacher: RawOutputs) -> tuple[Tensor, Tensor]:
    """The extra output ``name`` of both in float32, the teacher's without gradient."""
    for who, outputs in (("student", student), ("teacher", teacher)):
        if name not in outputs.extras:
            raise CompressError(
                f"distill: {loss}: the {who} predicts no {name}, so there is nothing to compare. "
                "Leave this loss out: it is for models of another task."
            )
    ours, theirs = student.extras[name], teacher.extras[name]
    same_shape(f"{loss}: {name}", ours, theirs)
    return ours.float(), theirs.detach().float()


def _difference(loss: str, name: str, student: RawOutputs, teacher: RawOutputs) -> Tensor:
    ours, theirs = _pair(loss, name, student, teacher)
    return ours - theirs
