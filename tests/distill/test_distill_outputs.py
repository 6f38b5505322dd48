"""Losses on outputs: slow references in double precision, and what all of them promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from drawn_outputs import CELLS, LEVELS, draw_outputs, tensors_of, trainable, with_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_outputs import (
    REFERENCES,
    bins_kl,
    class_bce,
    giou_cell,
    modulated,
    slow,
)
from torch import Tensor

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
