"""Losses on what a head predicts for every cell, in float32.

A cell counts by the teacher's confidence in it unless a loss says otherwise; the sum over cells is
divided by the confidence of the whole batch (``cells.per_image``).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from compress.distill.losses.boxes import ciou_loss, giou_loss
from compress.distill.losses.cells import peaks, per_image
from compress.distill.losses.divergences import bernoulli_kl, softmax_kl
from compress.distill.losses.shapes import same_shape
from compress.errors import CompressError
from compress.models.raw_outputs import RawOutputs

ClassLoss = Literal["l2", "kl", "bce"]


def l1(student: RawOutputs, teacher: RawOutputs) -> Tensor:
    """Mean absolute difference of class logits plus that of box logits.

    Nets with different bins are compared by their distances, in strides.

    Returns:
        (N,).

    Raises:
        CompressError: if cells or classes differ.
    """
    classes, boxes = _differences("l1", student, teacher)
    return _confident(classes.abs().mean(1) + boxes.abs().mean(1), teacher)


def l2(student: RawOutputs, teacher: RawOutputs) -> Tensor:
    """Mean squared difference of class logits plus that of box logits.

    Nets with different bins are compared by their distances, in strides.

    Returns:
        (N,).

    Raises:
        CompressError: if cells or classes differ.
    """
    classes, boxes = _differences("l2", student, teacher)
    return _confident(classes.square().mean(1) + boxes.square().mean(1), teacher)


def kl(student: RawOutputs, teacher: RawOutputs, temperature: float = 3.0) -> Tensor:
    """KL of the softmax over classes, times T^2.

    Source: Hinton et al., Distilling the knowledge in a neural network (2015).

    Args:
        student: (N, K, A) scores.
        teacher: the same shape; gets no gradient.
        temperature: T, above 0.

    Returns:
        (N,).

    Raises:
        CompressError: if cells or classes differ, or there is one class only.
    """
    same_shape("kl: class scores", student.scores, teacher.scores)
    return _confident(_classes("kl", student, teacher, temperature), teacher)


def bce(student: RawOutputs, teacher: RawOutputs, temperature: float = 1.0) -> Tensor:
    """KL of the sigmoid of each class, summed over classes, times T^2.

    Binary cross entropy less the teacher's own entropy: 0 where both agree.

    Args:
        student: (N, K, A) scores.
        teacher: the same shape; gets no gradient.
        temperature: T, above 0.

    Returns:
        (N,).

    Raises:
        CompressError: if cells or classes differ.
    """
    same_shape("bce: class scores", student.scores, teacher.scores)
    return _confident(_classes("bce", student, teacher, temperature), teacher)


def bckd(student: RawOutputs, teacher: RawOutputs, beta: float = 1.0, boxes: float = 4.0) -> Tensor:
    """Every cell counts by how much the class probabilities disagree there.

    ``sum_c KL_c * |p_T - p_S|^beta + boxes * (1 - GIoU) * max_c |p_T - p_S|`` over all cells; the
    factors of disagreement carry no gradient.
    Source: Yang et al., Bridging cross-task protocol inconsistency for distillation in dense
    object detection (2023).

    Args:
        student: raw outputs.
        teacher: of the same cells and classes; gets no gradient.
        beta: at least 0.
        boxes: weight of the box part.

    Returns:
        (N,).

    Raises:
        CompressError: if cells or classes differ.
    """
    same_shape("bckd: class scores", student.scores, teacher.scores)
    gap = _gap(student, teacher)
    classes = (bernoulli_kl(student.scores, teacher.scores) * gap.pow(beta)).sum(1)
    places = giou_loss(student.corners(), teacher.corners()) * gap.amax(1)
    return per_image(classes + boxes * places, teacher.confidence())


def ld(student: RawOutputs, teacher: RawOutputs, temperature: float = 10.0) -> Tensor:
    """Localization distillation: KL over distance bins, mean over the four sides, times T^2.

    Source: Zheng et al., Localization distillation for dense object detection (2022).

    Args:
        student: raw outputs with several bins.
        teacher: with as many; gets no gradient.
        temperature: T, above 0.

    Returns:
        (N,).

    Raises:
        CompressError: if cells or bins differ, or a net predicts distances without bins.
    """
    if student.bins != teacher.bins or student.bins == 1:
        raise CompressError(
            f"distill: ld: the student has {student.bins} distance bins and the teacher "
            f"{teacher.bins}, but ld compares distributions over the same bins, at least 2 "
            "(YOLO26 predicts distances without bins). Use ciou or l1 instead."
        )
    same_shape("ld: box outputs", student.boxes, teacher.boxes)
    return _confident(_bins(student, teacher, temperature), teacher)


def objectness(
    student: RawOutputs,
    teacher: RawOutputs,
    classes: ClassLoss = "l2",
    temperature: float = 1.0,
    feature_nms: bool = False,
) -> Tensor:
    """Class part plus mean squared difference of distances, both scaled by objectness.

    The best class score stands for objectness, which heads without anchors lack.
    Source: Mehta and Ozturk, Object detection at 200 FPS (2018).

    Args:
        student: raw outputs.
        teacher: of the same cells and classes; gets no gradient.
        classes: ``l2`` (mean over classes of squared logits' difference), ``kl`` or ``bce``.
        temperature: of ``kl`` and ``bce``, above 0.
        feature_nms: count only the teacher's peaks among the 3x3 cells around each.

    Returns:
        (N,).

    Raises:
        CompressError: if cells or classes differ, or for ``kl`` with one class.
    """
    same_shape("objectness: class scores", student.scores, teacher.scores)
    weights = teacher.confidence()
    if feature_nms:
        weights = weights * peaks(teacher)
    distances = (student.distances() - teacher.distances().detach()).square().mean(1)
    values = _classes(classes, student, teacher, temperature) + distances
    return per_image(weights * values, weights)


def focal(
    student: RawOutputs, teacher: RawOutputs, gamma: float = 2.0, alpha: float = 0.25
) -> Tensor:
    """Quality focal loss towards the teacher's probabilities, summed over classes, all cells.

    ``|p_T - p_S|^gamma * KL * (alpha * p_T + (1 - alpha) * (1 - p_T))``. The focal factor carries
    no gradient: for gamma below 1 it would be infinite where both agree.
    Source: Li et al., Generalized focal loss (2020), balanced as by Lin et al. (2017).

    Args:
        student: (N, K, A) scores.
        teacher: the same shape; gets no gradient.
        gamma: at least 0.
        alpha: balance of objects against background, within 0..1.

    Returns:
        (N,).

    Raises:
        CompressError: if cells or classes differ.
    """
    same_shape("focal: class scores", student.scores, teacher.scores)
    probabilities = teacher.scores.detach().float().sigmoid()
    balance = alpha * probabilities + (1 - alpha) * (1 - probabilities)
    values = bernoulli_kl(student.scores, teacher.scores) * _gap(student, teacher).pow(gamma)
    return per_image((values * balance).sum(1), teacher.confidence())


def ciou(student: RawOutputs, teacher: RawOutputs) -> Tensor:
    """1 - CIoU of the two boxes of each cell.

    Returns:
        (N,).

    Raises:
        CompressError: if cells or classes differ.
    """
    same_shape("ciou: class scores", student.scores, teacher.scores)
    return _confident(ciou_loss(student.corners(), teacher.corners()), teacher)


def crosskd(crossed: RawOutputs, teacher: RawOutputs, boxes: float = 1.0) -> Tensor:
    """What the teacher's last layers make of the student's features, against its own outputs.

    Classes: quality focal loss with exponent 1 over all cells. Boxes: KL over bins, or 1 - GIoU
    where there are none, weighted by the teacher's confidence.
    Source: Wang et al., CrossKD (2024).

    Args:
        crossed: outputs of ``bridges.CrossHead``.
        teacher: of the same cells, classes and bins; gets no gradient.
        boxes: weight of the box part.

    Returns:
        (N,).

    Raises:
        CompressError: if shapes differ.
    """
    same_shape("crosskd: class scores", crossed.scores, teacher.scores)
    same_shape("crosskd: box outputs", crossed.boxes, teacher.boxes)
    values = bernoulli_kl(crossed.scores, teacher.scores) * _gap(crossed, teacher)
    classes = per_image(values.sum(1), teacher.confidence())
    if teacher.bins > 1:
        return classes + boxes * _confident(_bins(crossed, teacher, 1.0), teacher)
    apart = giou_loss(crossed.corners(), teacher.corners())
    return classes + boxes * _confident(apart, teacher)


def _confident(values: Tensor, teacher: RawOutputs) -> Tensor:
    """One value an image of cells' ``values`` (N, A), weighted by the teacher's confidence."""
    weights = teacher.confidence()
    return per_image(weights * values, weights)


def _gap(student: RawOutputs, teacher: RawOutputs) -> Tensor:
    """Difference of class probabilities, (N, K, A) within 0..1, without gradient."""
    ours, theirs = student.scores.detach().float(), teacher.scores.detach().float()
    return (theirs.sigmoid() - ours.sigmoid()).abs()


def _differences(name: str, student: RawOutputs, teacher: RawOutputs) -> tuple[Tensor, Tensor]:
    """Of class logits, (N, K, A), and of boxes: logits (N, 4 * bins, A) or distances (N, 4, A)."""
    same_shape(f"{name}: class scores", student.scores, teacher.scores)
    classes = student.scores.float() - teacher.scores.detach().float()
    if student.bins == teacher.bins:
        return classes, student.boxes.float() - teacher.boxes.detach().float()
    return classes, student.distances() - teacher.distances().detach()


def _classes(
    kind: ClassLoss, student: RawOutputs, teacher: RawOutputs, temperature: float
) -> Tensor:
    """A loss of class logits in each cell, (N, A)."""
    if kind == "l2":
        return (student.scores.float() - teacher.scores.detach().float()).square().mean(1)
    if kind == "bce":
        return bernoulli_kl(student.scores, teacher.scores, temperature).sum(1)
    if teacher.scores.shape[1] == 1:
        raise CompressError(
            "distill: kl compares how scores are shared among classes, but the model has one class "
            "only, whose share is always 1, so nothing would be learned. Use bce instead."
        )
    return softmax_kl(student.scores, teacher.scores, 1, temperature)


def _bins(student: RawOutputs, teacher: RawOutputs, temperature: float) -> Tensor:
    """KL over bins, mean over sides, of each cell, (N, A)."""
    return softmax_kl(student.logits(), teacher.logits(), 2, temperature).mean(1)
