"""Losses on outputs: slow references in double precision, and what all of them promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from drawn_outputs import CELLS, LEVELS, draw, draw_outputs, tensors_of, trainable, with_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from compress.distill.losses.boxes import ciou_loss, giou_loss
from compress.distill.losses.cells import peaks, per_image
from compress.distill.losses.outputs import (
    bce,
    bckd,
    ciou,
    crosskd,
    focal,
    kl,
    l1,
    l2,
    ld,
    objectness,
)
from compress.distill.losses.task_outputs import angle, keypoints, masks
from compress.errors import CompressError
from compress.models.raw_outputs import RawOutputs

Loss = Callable[[RawOutputs, RawOutputs], Tensor]
Cell = Callable[[RawOutputs, RawOutputs, int, int], float]  # of image n and cell a

LOSSES: dict[str, Loss] = {
    "l1": l1,
    "l2": l2,
    "kl": kl,
    "bce": bce,
    "bce T 3": partial(bce, temperature=3.0),
    "bckd": bckd,
    "ld": ld,
    "objectness": objectness,
    "objectness kl": partial(objectness, classes="kl", temperature=2.0),
    "objectness bce": partial(objectness, classes="bce", feature_nms=True),
    "focal": focal,
    "focal gamma 0.5": partial(focal, gamma=0.5),
    "ciou": ciou,
    "crosskd": crosskd,
    "masks": masks,
    "keypoints": partial(keypoints, values=3),
    "keypoints x, y": partial(keypoints, values=2),
    "angle": angle,
}
_DETACHED = {"bckd", "focal", "focal gamma 0.5", "ciou", "crosskd"}  # factors without gradient
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


# ---- slow references, one cell at a time


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
    apart = generalized_box_iou_loss(box(student, n, a), box(teacher, n, a), eps=1e-9).item()
    return modulated(1.0)(student, teacher, n, a) + 4 * gap * apart


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


# ---- each loss against numbers


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(REFERENCES)),
    images=st.integers(1, 3),
    classes=st.integers(2, 4),
    bins=st.integers(2, 5),
    seed=st.integers(0, 999),
)
def test_losses_equal_slow_references(
    name: str, images: int, classes: int, bins: int, seed: int
) -> None:
    levels = ((8, 1, 2), (16, 2, 1))
    student, teacher = (
        draw_outputs(images, classes, bins, seed=seed + offset, levels=levels, scale=1.5)
        for offset in (0, 50)
    )
    expected = slow(*REFERENCES[name], student, teacher)
    assert LOSSES[name](student, teacher).tolist() == pytest.approx(expected, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["l1", "l2", "bckd", "objectness", "ciou", "focal"])
def test_heads_without_bins_are_compared_too(name: str) -> None:
    student, teacher = draw_outputs(bins=1), draw_outputs(bins=1, seed=50)
    expected = slow(*REFERENCES[name], student, teacher)
    assert LOSSES[name](student, teacher).tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("bins", [1, 4])
def test_crosskd_adds_its_box_part_by_weight(bins: int) -> None:
    student, teacher = draw_outputs(bins=bins), draw_outputs(bins=bins, seed=50)

    def giou_cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
        return generalized_box_iou_loss(box(student, n, a), box(teacher, n, a), eps=1e-9).item()

    classes = slow(modulated(1.0), False, student, teacher)
    boxes = slow(giou_cell if bins == 1 else bins_kl(1.0), True, student, teacher)
    expected = [c + 2.5 * b for c, b in zip(classes, boxes, strict=True)]
    assert crosskd(student, teacher, boxes=2.5).tolist() == pytest.approx(expected, rel=1e-3)


def test_masks_add_coefficients_and_prototypes() -> None:
    student, teacher = draw_outputs(), draw_outputs(seed=50)

    def cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
        difference = student.extras["masks"][n, :, a] - teacher.extras["masks"][n, :, a]
        return difference.double().square().mean().item()

    difference = student.extras["prototypes"] - teacher.extras["prototypes"]
    prototypes = difference.double().square().mean((1, 2, 3)).tolist()
    coefficients = slow(cell, True, student, teacher)
    expected = [c + p for c, p in zip(coefficients, prototypes, strict=True)]
    assert masks(student, teacher).tolist() == pytest.approx(expected, rel=1e-4)


def test_keypoints_without_visibility_are_places_only() -> None:
    student, teacher = draw_outputs(), draw_outputs(seed=50)

    def cell(student: RawOutputs, teacher: RawOutputs, n: int, a: int) -> float:
        ours, theirs = student.extras["keypoints"], teacher.extras["keypoints"]
        return (ours[n, :, a] - theirs[n, :, a]).double().abs().mean().item()

    expected = slow(cell, True, student, teacher)
    assert keypoints(student, teacher, values=2).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("turns", [0.5, -1.0, 3.0])
def test_half_a_turn_is_the_same_direction(turns: float) -> None:
    teacher = draw_outputs()
    turned = replace(
        teacher, extras={**teacher.extras, "angle": teacher.extras["angle"] + turns * 2 * math.pi}
    )
    assert angle(turned, teacher).tolist() == pytest.approx([0.0, 0.0], abs=1e-8)


def test_bckd_weighs_its_two_parts() -> None:
    student, teacher = draw_outputs(), draw_outputs(seed=50)
    without, once, twice = (bckd(student, teacher, boxes=weight) for weight in (0.0, 1.0, 2.0))
    assert torch.allclose(twice - once, once - without, atol=1e-6)
    assert (once > without).all()
    expected = slow(class_bce(1.0), False, student, teacher)
    flat = bckd(student, teacher, beta=0.0, boxes=0.0)
    assert flat.tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_nets_with_other_bins_are_compared_by_distances(name: str) -> None:
    teacher = draw_outputs(bins=4)
    same = replace(teacher, boxes=teacher.distances().reshape(2, 4, CELLS), bins=1)
    other = replace(same, boxes=same.boxes + 0.5)
    assert LOSSES[name](same, teacher).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    order = {"l1": 1, "l2": 2}[name]
    assert LOSSES[name](other, teacher).mean().item() == pytest.approx(0.5**order, rel=1e-4)


def test_the_divisor_is_shared_by_the_batch_and_at_least_one() -> None:
    weights = torch.tensor([[1.0, 1.0, 1.0], [1e-6, 0.0, 0.0]])
    values = weights * torch.tensor([[2.0, 2.0, 2.0], [9.0, 9.0, 9.0]])
    total = (values.sum() / weights.sum()).item()
    assert per_image(values, weights).mean().item() == pytest.approx(total)
    assert per_image(values, weights)[1].item() < 1e-4  # an image with next to nothing
    assert per_image(values * 1e-9, weights * 1e-9).max().item() < 1e-7


# ---- peaks


def grid_of(logits: Tensor) -> RawOutputs:
    """Outputs of one level from (K, rows, columns) logits."""
    _, rows, columns = logits.shape
    outputs = draw_outputs(1, len(logits), levels=((8, rows, columns),))
    return replace(outputs, scores=logits.flatten(1).unsqueeze(0))


def test_only_the_highest_neighbour_of_a_class_is_a_peak() -> None:
    logits = torch.full((2, 4, 4), -9.0)
    logits[0, 0, 0], logits[0, 0, 1] = 3.0, 2.0  # outdone by its neighbour
    logits[1, 1, 0] = 1.0  # a neighbour of another class
    logits[0, 3, 3] = 0.5  # too far from any
    found = peaks(grid_of(logits))[0].reshape(4, 4)
    assert found[0, 0]
    assert not found[0, 1]
    assert found[1, 0]
    assert found[3, 3]
    assert not found[2, 2]  # background beside a peak


def slow_peaks(outputs: RawOutputs) -> Tensor:
    places = list(zip(outputs.strides.tolist(), outputs.points.tolist(), strict=True))
    found = torch.zeros(outputs.scores.shape[0], len(places), dtype=torch.bool)
    for n, image in enumerate(outputs.scores):
        best, classes = image.max(0)
        for a, (stride, (x, y)) in enumerate(places):
            found[n, a] = all(
                best[b] <= best[a]
                for b, (other, (right, down)) in enumerate(places)
                if other == stride
                and classes[b] == classes[a]
                and max(abs(right - x), abs(down - y)) <= 1
            )
    return found


@settings(max_examples=20)
@given(
    levels=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    classes=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_peaks_are_found_in_every_level(
    levels: list[tuple[int, int]], classes: int, seed: int
) -> None:
    grids = [(8 * 2**i, rows, columns) for i, (rows, columns) in enumerate(levels)]
    outputs = draw_outputs(2, classes, seed=seed, levels=grids)
    assert torch.equal(peaks(outputs), slow_peaks(outputs))


# ---- boxes


def draw_boxes(seed: int) -> Tensor:
    corner, size = draw(2, 2, 9, seed=seed, scale=20.0), draw(2, 2, 9, seed=seed + 1, scale=15.0)
    return torch.cat([corner, corner + size.abs() + 1], 1)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [(giou_loss, generalized_box_iou_loss), (ciou_loss, complete_box_iou_loss)],
)
def test_box_losses_and_their_gradients_are_those_of_torchvision(
    loss: Callable[[Tensor, Tensor], Tensor], reference: Callable[..., Tensor]
) -> None:
    student, teacher = draw_boxes(0).requires_grad_(True), draw_boxes(7)
    again = student.detach().clone().requires_grad_(True)
    value = loss(student, teacher)
    expected = reference(
        again.permute(0, 2, 1).reshape(-1, 4), teacher.permute(0, 2, 1).reshape(-1, 4)
    )
    assert torch.allclose(value.flatten(), expected, atol=1e-5)
    value.sum().backward()
    expected.sum().backward()
    assert student.grad is not None
    assert again.grad is not None
    assert torch.allclose(student.grad, again.grad, atol=1e-5)


@pytest.mark.parametrize("loss", [giou_loss, ciou_loss])
def test_boxes_without_area_or_turned_inside_out_stay_finite(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    kinds = torch.tensor(
        [[3.0, 3, 3, 3], [5.0, 5, 1, 1], [0.0, 0, 8, 0], [2.0, 6, 9, 1], [0.0, 0, 4, 4]]
    ).T
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    student = kinds[:, pairs[0]].unsqueeze(0).requires_grad_(True)
    value = loss(student, kinds[:, pairs[1]].unsqueeze(0))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert torch.isfinite(gradient).all()
    assert (value >= 0).all()
    assert (value <= 4).all()
    assert value[0, pairs[0] == pairs[1]].abs().max() < 1e-6


# ---- what all losses promise


@every_loss
def test_one_float32_value_an_image_that_falls_with_the_difference(loss: Loss) -> None:
    teacher, noise = draw_outputs(3), tensors_of(draw_outputs(3, seed=50))

    def at_distance(size: float) -> Tensor:
        moved = {name: value + size * noise[name] for name, value in tensors_of(teacher).items()}
        return loss(with_tensors(teacher, moved), teacher)

    assert at_distance(1.0).shape == (3,)
    assert at_distance(1.0).dtype == torch.float32
    assert (at_distance(0.1) < at_distance(1.0)).all()
    assert (at_distance(0.1) > 0).all()


@every_loss
def test_repeated_images_keep_the_mean(loss: Loss) -> None:
    student, teacher = draw_outputs(), draw_outputs(seed=50)
    repeated = [
        with_tensors(side, {k: torch.cat([v] * 3) for k, v in tensors_of(side).items()})
        for side in (student, teacher)
    ]
    assert torch.allclose(loss(*repeated), loss(student, teacher).repeat(3), rtol=1e-4)


@every_loss
def test_nothing_to_learn_from_oneself(loss: Loss) -> None:
    for bins in (4,) if loss is ld else (1, 4):
        student = trainable(draw_outputs(bins=bins, scale=3.0))
        value = loss(student, draw_outputs(bins=bins, scale=3.0))
        value.sum().backward()
        assert value.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
        gradients = [v.grad for v in tensors_of(student).values() if v.grad is not None]
        assert gradients
        assert max(gradient.abs().max().item() for gradient in gradients) < 1e-6


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in _DETACHED])
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    loss = LOSSES[name]
    teacher, noise = draw_outputs(seed=50), tensors_of(draw_outputs())
    apart = {  # by more than a step, for |x| bends at 0
        k: v + noise[k] + 0.1 * noise[k].sign() for k, v in tensors_of(teacher).items()
    }
    student = trainable(with_tensors(teacher, apart))
    loss(student, teacher).mean().backward()
    step = 3e-3  # losses are computed in float32
    gradients = {k: v.grad for k, v in tensors_of(student).items() if v.grad is not None}
    for seed in range(100, 103):
        direction = tensors_of(draw_outputs(seed=seed))

        def moved(size: float, direction: dict[str, Tensor] = direction) -> float:
            tensors = {k: v.detach() + size * direction[k] for k, v in tensors_of(student).items()}
            return loss(with_tensors(student, tensors), teacher).mean().item()

        slope = (moved(step) - moved(-step)) / (2 * step)
        found = sum((value * direction[k]).sum().item() for k, value in gradients.items())
        assert found == pytest.approx(slope, rel=0.02, abs=2e-3)


def class_gradient(factor: Tensor, student: RawOutputs, teacher: RawOutputs) -> Tensor:
    """Of the mean over images of cross entropy times a fixed factor, by class logits."""
    probabilities = student.scores.detach().sigmoid() - teacher.scores.sigmoid()
    return factor * probabilities / teacher.confidence().sum()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_focal_factor_carries_no_gradient(gamma: float) -> None:
    student, teacher = trainable(draw_outputs()), draw_outputs(seed=50)
    focal(student, teacher, gamma=gamma, alpha=0.25).mean().backward()
    theirs = teacher.scores.sigmoid()
    factor = (theirs - student.scores.detach().sigmoid()).abs() ** gamma
    balance = 0.25 * theirs + 0.75 * (1 - theirs)
    expected = class_gradient(factor * balance, student, teacher)
    assert student.scores.grad is not None
    assert torch.allclose(student.scores.grad, expected, atol=1e-6)


@pytest.mark.parametrize("loss", [bckd, crosskd])
def test_the_factor_of_disagreement_carries_no_gradient(loss: Loss) -> None:
    student, teacher = trainable(draw_outputs()), draw_outputs(seed=50)
    loss(student, teacher).mean().backward()
    factor = (teacher.scores.sigmoid() - student.scores.detach().sigmoid()).abs()
    assert student.scores.grad is not None
    assert torch.allclose(student.scores.grad, class_gradient(factor, student, teacher), atol=1e-6)
    assert student.boxes.grad is not None
    assert student.boxes.grad.abs().max() > 0


@every_loss
def test_the_teacher_gets_no_gradient(loss: Loss) -> None:
    student, teacher = trainable(draw_outputs()), trainable(draw_outputs(seed=50))
    loss(student, teacher).sum().backward()
    assert all(value.grad is None for value in tensors_of(teacher).values())
    assert any(value.grad is not None for value in tensors_of(student).values())


@every_loss
def test_memory_layout_does_not_matter(loss: Loss) -> None:
    student, teacher = draw_outputs(), draw_outputs(seed=50)
    turned = {
        k: v.transpose(1, -1).contiguous().transpose(1, -1) for k, v in tensors_of(student).items()
    }
    assert not turned["boxes"].is_contiguous()
    assert torch.allclose(loss(with_tensors(student, turned), teacher), loss(student, teacher))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    student, teacher = (
        with_tensors(side, {k: v.to(dtype) for k, v in tensors_of(side).items()})
        for side in (draw_outputs(scale=20.0), draw_outputs(seed=50, scale=20.0))
    )
    wide = [
        with_tensors(side, {k: v.float() for k, v in tensors_of(side).items()})
        for side in (student, teacher)
    ]
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(*wide))


@every_loss
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
def test_large_values_do_not_overflow(loss: Loss, scale: float) -> None:
    for bins in (4,) if loss is ld else (1, 4):
        student = trainable(draw_outputs(bins=bins, scale=scale))
        value = loss(student, draw_outputs(bins=bins, seed=50, scale=scale))
        value.sum().backward()
        gradients = [v.grad for v in tensors_of(student).values() if v.grad is not None]
        assert torch.isfinite(value).all()
        assert gradients
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    images=st.integers(1, 4),
    classes=st.integers(2, 5),
    bins=st.integers(2, 6),
    levels=st.lists(
        st.tuples(st.just(8), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=1
    ),
    scale=st.floats(0.01, 30.0),
    seed=st.integers(0, 999),
)
def test_values_are_positive_and_follow_their_image(
    name: str,
    images: int,
    classes: int,
    bins: int,
    levels: list[tuple[int, int, int]],
    scale: float,
    seed: int,
) -> None:
    student, teacher = (
        draw_outputs(images, classes, bins, seed=s, scale=scale, levels=levels)
        for s in (seed, seed + 50)
    )
    value = LOSSES[name](student, teacher)
    assert value.shape == (images,)
    assert torch.isfinite(value).all()
    assert (value >= -1e-4).all()
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    shuffled = [
        with_tensors(side, {k: v[order] for k, v in tensors_of(side).items()})
        for side in (student, teacher)
    ]
    assert torch.allclose(LOSSES[name](*shuffled), value[order], rtol=1e-4, atol=1e-5)


@every_loss
def test_levels_can_be_left_out(loss: Loss) -> None:
    student, teacher = draw_outputs(), draw_outputs(seed=50)
    coarse = teacher.strides == LEVELS[1][0]
    value = loss(student.at(coarse), teacher.at(coarse))
    assert torch.isfinite(value).all()
    assert not torch.allclose(value, loss(student, teacher), rtol=1e-3)


# ---- refusals


def test_kl_of_one_class_is_refused_in_favour_of_bce() -> None:
    student, teacher = draw_outputs(classes=1), draw_outputs(classes=1, seed=50)
    for loss in (kl, partial(objectness, classes="kl")):
        with pytest.raises(CompressError, match=r"one class.*Use bce"):
            loss(student, teacher)
    assert (bce(student, teacher) > 0).all()


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (1, 4), (4, 1), (4, 5)])
def test_ld_refuses_heads_without_the_same_bins(ours: int, theirs: int) -> None:
    with pytest.raises(CompressError, match=rf"{ours} distance bins.*{theirs}.*YOLO26.*ciou or l1"):
        ld(draw_outputs(bins=ours), draw_outputs(bins=theirs))


def test_crosskd_refuses_other_bins() -> None:
    with pytest.raises(CompressError, match=r"\(2, 16, 26\).*\(2, 20, 26\)"):
        crosskd(draw_outputs(bins=4), draw_outputs(bins=5))


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if not name.startswith(("ld", "masks", "key", "angle"))]
)
def test_other_classes_are_refused_with_both_shapes(name: str) -> None:
    with pytest.raises(CompressError, match=r"\(2, 1, 26\).*\(2, 3, 26\).*Leave this loss out"):
        LOSSES[name](draw_outputs(classes=1), draw_outputs(classes=3))


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("masks", masks),
        ("prototypes", masks),
        ("keypoints", partial(keypoints, values=3)),
        ("angle", angle),
    ],
)
def test_task_outputs_of_other_shapes_or_none_are_refused(name: str, loss: Loss) -> None:
    student, teacher = draw_outputs(), draw_outputs(seed=50)
    wider = torch.cat([teacher.extras[name], teacher.extras[name]], 1)
    with pytest.raises(CompressError, match=rf"{name} have shape.*Leave this loss out"):
        loss(student, replace(teacher, extras={**teacher.extras, name: wider}))
    without = {key: value for key, value in student.extras.items() if key != name}
    with pytest.raises(CompressError, match=rf"the student predicts no {name}"):
        loss(replace(student, extras=without), teacher)
