"""Known defects of published distillation code, as far as pure functions and bridges have them.

The number in a test's name is that of the defect in the project's list; those of the training
loop are tested beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from drawn_outputs import CELLS, draw, draw_outputs, tensors_of, trainable
from torch import Tensor

from compress.distill.bridges import Generator
from compress.distill.losses.boxes import ciou_loss, giou_loss
from compress.distill.losses.features import attention, cwd, mimic, pkd
from compress.distill.losses.outputs import (
    ClassLoss,
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
from compress.models.raw_outputs import RawOutputs

# ---- 4: one normalisation layer shared by student and teacher


def test_defect_04_no_statistics_are_kept_between_calls() -> None:
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    before = pkd(student, teacher)
    for seed in range(2, 6):  # running statistics would follow these
        pkd(draw(2, 3, 4, 4, seed=seed, scale=30.0) + 100, draw(2, 3, 4, 4, seed=seed + 9))
    assert torch.equal(pkd(student, teacher), before)


def test_defect_04_each_side_is_normalised_by_its_own_statistics() -> None:
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    before = pkd(student, teacher)
    assert torch.allclose(pkd(student, teacher * 20 + 7), before, atol=1e-4)
    assert torch.allclose(pkd(student * 20 + 7, teacher), before, atol=1e-4)


def test_defect_04_half_precision_is_normalised_in_float32() -> None:
    student = (draw(2, 3, 8, 8) + 300).half()  # squares overflow half precision
    assert torch.isfinite(pkd(student, draw(2, 3, 8, 8, seed=1).half())).all()
    assert pkd(student, student * 2).max() < 1e-3


# ---- 9: the mask of MGD


def hidden_positions(generator: Generator, images: int, size: int, channels: int = 3) -> Tensor:
    """Which positions of a map of ones reached the layers as zeros, (N, C, H, W)."""
    generator.layers = torch.nn.Sequential()
    hidden: Tensor = generator(torch.ones(images, channels, size, size)) == 0
    return hidden


@pytest.mark.parametrize("masked", [0.15, 0.65])
def test_defect_09_masked_is_the_share_of_positions_hidden(masked: float) -> None:
    torch.manual_seed(0)
    hidden = hidden_positions(Generator(3, masked), images=4, size=64)
    assert hidden.float().mean().item() == pytest.approx(masked, abs=0.02)


def test_defect_09_a_position_is_hidden_in_all_channels_and_anew_for_each_image_and_call() -> None:
    generator = Generator(3, masked=0.5)
    hidden = hidden_positions(generator, images=2, size=16)
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    assert not torch.equal(hidden[0], hidden[1])
    assert not torch.equal(hidden, hidden_positions(generator, images=2, size=16))


def test_defect_09_the_mask_is_drawn_where_the_features_are() -> None:
    generator = Generator(3, masked=0.5).to("meta")
    # a mask drawn on the CPU and copied over would fail: nothing can be moved to or from here
    assert generator(torch.ones(2, 3, 4, 4, device="meta")).device.type == "meta"


def test_defect_09_the_mask_follows_the_global_seed() -> None:
    torch.manual_seed(3)
    first = hidden_positions(Generator(3, masked=0.5), images=2, size=16)
    torch.manual_seed(3)
    assert torch.equal(first, hidden_positions(Generator(3, masked=0.5), images=2, size=16))


# ---- 10: CWD and others in half precision and other memory orders


def test_defect_10_cwd_takes_channels_last() -> None:
    student, teacher = draw(2, 4, 6, 6), draw(2, 4, 6, 6, seed=1)
    turned = [side.contiguous(memory_format=torch.channels_last) for side in (student, teacher)]
    assert torch.allclose(cwd(*turned), cwd(student, teacher))


def test_defect_10_half_precision_does_not_overflow() -> None:
    student = torch.full((1, 16, 80, 80), 200.0).half()  # squares are beyond half precision
    teacher = -student
    assert mimic(student, teacher).item() == pytest.approx(400.0**2, rel=1e-5)
    noise = draw(1, 16, 80, 80, scale=50.0).half()
    assert torch.equal(cwd(noise, teacher), cwd(noise.float(), teacher.float()))
    assert cwd(noise, teacher).item() > 10


def test_defect_10_cwd_divides_by_images_and_channels_and_holds_the_teachers_entropy() -> None:
    student, teacher = draw(2, 4, 3, 3), draw(2, 4, 3, 3, seed=1)
    ours, theirs = (side.double().flatten(2).div(2).softmax(2) for side in (student, teacher))
    expected = 4 * (theirs * (theirs / ours).log()).sum() / (2 * 4)
    assert cwd(student, teacher, 2.0).mean().item() == pytest.approx(expected.item(), rel=1e-5)
    assert cwd(teacher, teacher).abs().max() < 1e-7


# ---- 11: the objectness-scaled loss of detectors with anchors


def two_cells() -> RawOutputs:
    """One image, two cells of one class: the teacher's confidence is 0.9 and 0.1."""
    outputs = draw_outputs(1, 1, 4, levels=((8, 1, 2),))
    return replace(outputs, scores=torch.tensor([0.9, 0.1]).logit().reshape(1, 1, 2))


@pytest.mark.parametrize("classes", ["l2", "bce"])
def test_defect_11_the_class_part_is_scaled_by_objectness(classes: ClassLoss) -> None:
    teacher = two_cells()

    def moved(cell: int) -> float:
        scores = teacher.scores.clone()
        scores[..., cell] *= 1.5  # away from 0 in both: the same cross entropy
        return objectness(replace(teacher, scores=scores), teacher, classes).item()

    assert moved(0) / moved(1) == pytest.approx(9.0, rel=1e-3)


def test_defect_11_the_box_part_is_scaled_by_objectness() -> None:
    teacher = two_cells()
    teacher = replace(teacher, boxes=teacher.boxes[..., :1].repeat(1, 1, 2))

    def moved(cell: int) -> float:
        boxes = teacher.boxes.clone()
        boxes[:, ::4, cell] += 1
        return objectness(replace(teacher, boxes=boxes), teacher).item()

    assert moved(0) / moved(1) == pytest.approx(9.0, rel=1e-3)


def test_defect_11_feature_nms_keeps_the_best_of_neighbouring_cells_only() -> None:
    teacher = draw_outputs(1, 2, 4, levels=((8, 4, 4), (16, 2, 2)), scale=0.1)
    scores = torch.full((1, 2, 20), -12.0)
    scores[0, 0, [5, 6, 10]] = torch.tensor([3.0, 2.0, 1.0])  # neighbours of one class
    scores[0, 1, 9] = 0.5  # a neighbour of another class
    scores[0, 0, 16] = 0.0  # another level
    teacher = replace(teacher, scores=scores)
    suppressed, kept = trainable(teacher), trainable(teacher)
    for student, nms in ((suppressed, True), (kept, False)):
        moved = replace(student, scores=student.scores + 1)
        objectness(moved, teacher, feature_nms=nms).sum().backward()

    def learned(student: RawOutputs) -> list[int]:
        assert student.scores.grad is not None
        size = student.scores.grad.abs().sum((0, 1))
        return (size > 1e-3).nonzero().flatten().tolist()

    assert learned(kept) == [5, 6, 9, 10, 16]
    assert learned(suppressed) == [5, 9, 16]


def test_defect_11_boxes_are_compared_as_distances_not_as_raw_numbers() -> None:
    teacher = draw_outputs()
    shifted = (teacher.logits() + draw(2, 4, 1, CELLS, seed=9, scale=5.0)).reshape(2, 16, CELLS)
    same = replace(teacher, boxes=shifted)  # other numbers for the same boxes
    assert objectness(same, teacher).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    other_bins = replace(teacher, boxes=teacher.distances().reshape(2, 4, CELLS), bins=1)
    assert objectness(other_bins, teacher).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("loss", [kl, partial(objectness, classes="kl"), bce])
def test_defect_11_classes_that_no_one_sees_do_not_thin_the_loss(
    loss: Callable[..., Tensor],
) -> None:
    teacher = draw_outputs(classes=2)
    student = replace(teacher, scores=draw(2, 2, CELLS, seed=9))
    more_student, more_teacher = (
        replace(side, scores=torch.cat([side.scores, torch.full((2, 6, CELLS), -200.0)], 1))
        for side in (student, teacher)
    )
    assert torch.allclose(loss(more_student, more_teacher), loss(student, teacher), rtol=1e-4)


def test_defect_11_temperature_keeps_the_size_of_gradients() -> None:
    teacher = draw_outputs(classes=4, scale=0.5)
    sizes = []
    for temperature in (2.0, 20.0):  # T^2 = 400 against a gradient that falls as 1 / T^2
        student = trainable(draw_outputs(classes=4, scale=0.5, seed=50))
        kl(student, teacher, temperature).mean().backward()
        assert student.scores.grad is not None
        sizes.append(student.scores.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


def test_defect_11_scores_of_sigmoids_are_compared_as_sigmoids() -> None:
    teacher = draw_outputs()
    surer = replace(teacher, scores=teacher.scores + 2)  # the same softmax, other detections
    assert kl(surer, teacher).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    for loss in (bce, bckd, focal, crosskd):
        assert (loss(surer, teacher) > 0.1).all()


@pytest.mark.parametrize("loss", [l1, l2, kl, bce, bckd, ld, objectness, focal, ciou, crosskd])
def test_defect_11_scores_that_round_to_zero_or_one_stay_finite(
    loss: Callable[..., Tensor],
) -> None:
    teacher, student = draw_outputs(), trainable(draw_outputs(seed=50))
    certain = torch.where(teacher.scores > 0, 200.0, -200.0)  # logit(sigmoid(.)) is infinite here
    value = loss(student, replace(teacher, scores=certain))
    value.sum().backward()
    assert torch.isfinite(value).all()
    for tensor in tensors_of(student).values():
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()


# ---- article 001: attention that learns to look away; CIoU of all pairs


def test_defect_attention_cannot_fall_unless_the_difference_does() -> None:
    student, teacher = draw(2, 1, 6, 6), draw(2, 1, 6, 6, seed=1)
    # weights of mean 1 that grow with the difference never lessen it
    assert (attention(student, teacher) >= mimic(student, teacher)).all()
    for share in (1e-3, 1.0, 1e3):
        far = teacher + share * (student - teacher)
        assert torch.allclose(
            attention(far, teacher), share**2 * attention(student, teacher), rtol=1e-2
        )


def test_defect_attention_descends_only_by_approaching_the_teacher() -> None:
    student, teacher = draw(1, 3, 4, 4).requires_grad_(True), draw(1, 3, 4, 4, seed=1)
    optimizer = torch.optim.SGD([student], lr=5.0)
    first = mimic(student, teacher).item()
    for _ in range(60):
        optimizer.zero_grad()
        attention(student, teacher).sum().backward()
        assert student.grad is not None
        towards = (teacher - student).detach()
        assert (student.grad * towards <= 0).all()  # never away, at no position
        optimizer.step()
    assert mimic(student, teacher).item() < 0.05 * first


@pytest.mark.parametrize("loss", [giou_loss, ciou_loss])
def test_defect_pairwise_boxes_do_not_grow_with_the_square_of_their_number(
    loss: Callable[..., Tensor],
) -> None:
    many = torch.rand(1, 4, 200_000)  # all pairs of these would need 160 GB
    assert loss(many, many.flip(2)).shape == (1, 200_000)


@pytest.mark.parametrize("loss", [giou_loss, ciou_loss])
def test_defect_pairwise_each_box_is_compared_with_its_own_partner_only(
    loss: Callable[..., Tensor],
) -> None:
    corner = draw(1, 2, 6, scale=5.0)
    boxes = torch.cat([corner, corner + draw(1, 2, 6, seed=1).abs() + 1], 1)
    student = boxes.clone().requires_grad_(True)
    value = loss(student, boxes.flip(2))
    (gradient,) = torch.autograd.grad(value[0, 2], student)
    assert gradient.abs().sum((0, 1)).nonzero().flatten().tolist() == [2]
    alone = loss(boxes[..., 2:3], boxes.flip(2)[..., 2:3])
    assert torch.allclose(value[0, 2:3], alone[0])
