"""Losses on outputs, one cell at a time in double precision: what the fast ones must equal."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from compress.models.raw_outputs import RawOutputs

Cell = Callable[[RawOutputs, RawOutputs, int, int], float]  # of image n and cell a


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def divergence(wanted: list[float], got: list[float]) -> float:
    return sum(t * math.log(t / s) for t, s in zip(wanted, got, strict=True))


def scores(outputs: RawOutputs, n: int, a: int) -> list[float]:
    return outputs.scores[n, :, a].double().tolist()


def sides(outputs: RawOutputs, n: int, a: int) -> list[list[float]]:
    """Logits of each side."""
    return outputs.boxes[n, :, a].double().reshape(4, outputs.bins).tolist()


def distances(outputs: RawOutputs, n: int, a: int) -> list[float]:
    if outputs.bins == 1:
        return [side[0] for side in sides(outputs, n, a)]
    return [sum(i * p for i, p in enumerate(softmax(side))) for side in sides(outputs, n, a)]


def box(outputs: RawOutputs, n: int, a: int) -> Tensor:
    x, y = outputs.points[a].tolist()
    left, top, right, bottom = distances(outputs, n, a)
    corners = torch.tensor([[x - left, y - top, x + right, y + bottom]], dtype=torch.float64)
    return corners * outputs.strides[a].item()


def confidence(teacher: RawOutputs, n: int, a: int) -> float:
    return max(map(sigmoid, scores(teacher, n, a)))


def class_kl(temperature: float) -> Cell:
    def cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
        ours, theirs = (
            softmax([z / temperature for z in scores(side, n, a)]) for side in (student, teacher)
        )
        return temperature**2 * divergence(theirs, ours)

    return cell


def class_bce(temperature: float) -> Cell:
    def cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
        return temperature**2 * sum(
            yes_or_no(sigmoid(t / temperature), sigmoid(s / temperature))
            for s, t in zip(scores(student, n, a), scores(teacher, n, a), strict=True)
        )

    return cell


def yes_or_no(wanted: float, got: float) -> float:
    return divergence([wanted, 1 - wanted], [got, 1 - got])


def power(order: int) -> Cell:
    """Mean over class logits plus mean over box logits of |difference|^order."""

    def cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
        total = 0.0
        for ours, theirs in ((student.scores, teacher.scores), (student.boxes, teacher.boxes)):
            total += (ours[n, :, a] - theirs[n, :, a]).double().abs().pow(order).mean().item()
        return total

    return cell


def bins_kl(temperature: float) -> Cell:
    def cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
        pairs = zip(sides(student, n, a), sides(teacher, n, a), strict=True)
        return temperature**2 * mean(
            [
                divergence(
                    softmax([z / temperature for z in theirs]),
                    softmax([z / temperature for z in ours]),
                )
                for ours, theirs in pairs
            ]
        )

    return cell


def modulated(exponent: float, alpha: float | None = None) -> Cell:
    """Cross entropy of classes times |p_T - p_S|^exponent."""

    def cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
        total = 0.0
        for s, t in zip(scores(student, n, a), scores(teacher, n, a), strict=True):
            p = sigmoid(t)
            balance = 1.0 if alpha is None else alpha * p + (1 - alpha) * (1 - p)
            total += yes_or_no(p, sigmoid(s)) * abs(p - sigmoid(s)) ** exponent * balance
        return total

    return cell


def bckd_cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
    pairs = zip(scores(student, n, a), scores(teacher, n, a), strict=True)
    gap = max(abs(sigmoid(s) - sigmoid(t)) for s, t in pairs)
    return modulated(1.0)(student, teacher, n, a) + 4 * gap * giou_cell(student, teacher, n, a)


def giou_cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
    return generalized_box_iou_loss(box(student, n, a), box(teacher, n, a), eps=1e-9).item()


def ciou_cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
    return complete_box_iou_loss(box(student, n, a), box(teacher, n, a), eps=1e-9).item()


def objectness_cell(classes: Cell) -> Cell:
    def cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
        pairs = zip(distances(student, n, a), distances(teacher, n, a), strict=True)
        return classes(student, teacher, n, a) + mean([(s - t) ** 2 for s, t in pairs])

    return cell


def class_l2(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
    pairs = zip(scores(student, n, a), scores(teacher, n, a), strict=True)
    return mean([(s - t) ** 2 for s, t in pairs])


def angle_cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
    ours, theirs = student.extras["angle"][n, 0, a], teacher.extras["angle"][n, 0, a]
    return 1 - math.cos(2 * (ours.item() - theirs.item()))


def keypoints_cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
    ours, theirs = (side.extras["keypoints"][n, :, a].tolist() for side in (student, teacher))
    places = mean([abs(ours[i] - theirs[i]) for i in (0, 1, 3, 4)])
    return places + mean([yes_or_no(sigmoid(theirs[i]), sigmoid(ours[i])) for i in (2, 5)])


# the cell's value, and whether it is weighted by the teacher's confidence
REFERENCES: dict[str, tuple[Cell, bool]] = {
    "l1": (power(1), True),
    "l2": (power(2), True),
    "kl": (class_kl(3.0), True),
    "bce": (class_bce(1.0), True),
    "bce T 3": (class_bce(3.0), True),
    "bckd": (bckd_cell, False),
    "ld": (bins_kl(10.0), True),
    "objectness": (objectness_cell(class_l2), True),
    "objectness kl": (objectness_cell(class_kl(2.0)), True),
    "focal": (modulated(2.0, 0.25), False),
    "focal gamma 0.5": (modulated(0.5, 0.25), False),
    "ciou": (ciou_cell, True),
    "keypoints": (keypoints_cell, True),
    "angle": (angle_cell, True),
}


def slow(cell: Cell, weighted: bool, student: RawOutputs, teacher: RawOutputs) -> list[float]:
    images, _, cells = teacher.scores.shape
    weights = [[confidence(teacher, n, a) for a in range(cells)] for n in range(images)]
    share = images / max(sum(map(sum, weights)), 1.0)
    return [
        share
        * sum(
            cell(student, teacher, n, a) * (weights[n][a] if weighted else 1.0)
            for a in range(cells)
        )
        for n in range(images)
    ]
