"""Losses on features: slow references in double precision, and what all of them promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from drawn_outputs import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_features import (
    slow_at,
    slow_attention,
    slow_cwd,
    slow_fgd,
    slow_mimic,
    slow_pkd_of_a_batch,
)
from torch import Tensor

from compress.distill.losses.features import (
    at,
    attention,
    cwd,
    fgd,
    foreground_mask,
    mimic,
    pkd,
)
from compress.errors import CompressError

Loss = Callable[[Tensor, Tensor], Tensor]


def fgd_of_one_box(student: Tensor, teacher: Tensor) -> Tensor:
    """FGD with the same box in each image."""
    box = torch.tensor([[0.0, 0.3, 0.1, 0.9, 0.6]])
    boxes = box.repeat(len(student), 1)
    boxes[:, 0] = torch.arange(len(student))
    return fgd(student, teacher, boxes, foreground=2.0, background=0.7, attention=1.5)


LOSSES: dict[str, Loss] = {
    "cwd": cwd,
    "cwd tau 4": partial(cwd, temperature=4.0),
    "mimic": mimic,
    "pkd": pkd,
    "at": at,
    "attention": attention,
    "fgd": fgd_of_one_box,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


# ---- each loss against numbers


def test_cwd_of_two_positions_by_hand() -> None:
    student = torch.zeros(1, 1, 1, 2)  # 1/2, 1/2
    teacher = torch.tensor([0.0, math.log(3.0)]).reshape(1, 1, 1, 2)  # 1/4, 3/4
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert cwd(student, teacher).tolist() == pytest.approx([expected], abs=1e-6)


def test_cwd_temperature_softens_and_rescales_by_hand() -> None:
    student = torch.zeros(1, 1, 1, 2)
    teacher = torch.tensor([0.0, 2 * math.log(3.0)]).reshape(1, 1, 1, 2)
    expected = 4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert cwd(student, teacher, temperature=2.0).item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    temperature=st.floats(0.25, 8.0),
    scale=st.floats(0.0, 10.0),
    seed=st.integers(0, 999),
)
def test_losses_equal_slow_references(
    shape: tuple[int, int, int, int], temperature: float, scale: float, seed: int
) -> None:
    student, teacher = draw(*shape, seed=seed, scale=scale), draw(*shape, seed=seed + 1)
    pairs = list(zip(student, teacher, strict=True))
    close = partial(pytest.approx, rel=1e-4, abs=1e-5)
    assert mimic(student, teacher).tolist() == close([slow_mimic(*pair) for pair in pairs])
    assert cwd(student, teacher, temperature).tolist() == close(
        [slow_cwd(*pair, temperature) for pair in pairs]
    )
    assert attention(student, teacher).tolist() == close([slow_attention(*pair) for pair in pairs])
    if scale > 0.01:
        assert at(student, teacher).tolist() == close([slow_at(*pair) for pair in pairs])


@settings(max_examples=25)
@given(
    images=st.integers(1, 3),
    size=st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5)),
    temperature=st.floats(0.25, 4.0),
    shares=st.tuples(*[st.floats(0.0, 3.0)] * 3),
    count=st.integers(0, 5),
    seed=st.integers(0, 999),
)
def test_fgd_equals_a_slow_reference(
    images: int,
    size: tuple[int, int, int],
    temperature: float,
    shares: tuple[float, float, float],
    count: int,
    seed: int,
) -> None:
    student, teacher = draw(images, *size, seed=seed), draw(images, *size, seed=seed + 1)
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=random).sort(1).values.flatten(1)
    index = torch.randint(images, (count, 1), generator=random)
    boxes = torch.cat([index, corners], 1)
    foreground, background, share = shares
    values = fgd(
        student,
        teacher,
        boxes,
        temperature=temperature,
        foreground=foreground,
        background=background,
        attention=share,
    )
    masks = foreground_mask(boxes, images, *size[1:])
    expected = [
        slow_fgd(ours, theirs, mask, temperature, shares)
        for ours, theirs, mask in zip(student, teacher, masks, strict=True)
    ]
    assert values.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_foreground_counts_boxes_alike_and_takes_the_smallest_where_they_overlap() -> None:
    boxes = torch.tensor(
        [
            [0, 0.0, 0.0, 1.0, 1.0],  # all 16 cells
            [0, 0.3, 0.0, 0.7, 0.5],  # columns 1, 2 of rows 0, 1
            [1, 0.5, 0.5, 0.5, 0.5],  # no area: still one cell
            [1, 0.9, -0.5, 1.5, 0.1],  # beyond the map: one corner
        ]
    )
    mask = foreground_mask(boxes, images=3, height=4, width=4)
    first = torch.full((4, 4), 1 / 16)
    first[:2, 1:3] = 1 / 4
    second = torch.zeros(4, 4)
    second[2, 2] = second[0, 3] = 1.0
    assert torch.equal(mask, torch.stack([first, second, torch.zeros(4, 4)]))


def test_more_boxes_than_fit_at_once_make_the_same_mask() -> None:
    corners = torch.rand(3000, 2, 2, generator=torch.Generator().manual_seed(0)).sort(1).values
    boxes = torch.cat([torch.arange(3000).remainder(7).unsqueeze(1), corners.flatten(1)], 1)
    mask = foreground_mask(boxes, 7, 8, 9)
    parts = [foreground_mask(part, 7, 8, 9) for part in torch.split(boxes, 500)]
    assert torch.equal(mask, torch.stack(parts).amax(0))


def test_fgd_looks_where_its_shares_say() -> None:
    teacher = torch.zeros(1, 2, 4, 4)
    boxes = torch.tensor([[0, 0.0, 0.0, 0.5, 0.5]])
    inside, outside = teacher.clone(), teacher.clone()
    inside[:, :, 0, 0] = 1.0
    outside[:, :, 3, 3] = 1.0
    foreground = partial(fgd, boxes=boxes, background=0.0, attention=0.0)
    background = partial(fgd, boxes=boxes, foreground=0.0, attention=0.0, background=1.0)
    assert foreground(inside, teacher).item() == pytest.approx(1 / 4)  # one of the box' 4 cells
    assert background(outside, teacher).item() == pytest.approx(1 / 12)
    assert foreground(outside, teacher).item() == 0
    assert background(inside, teacher).item() == 0


def test_pkd_is_one_minus_the_correlation() -> None:
    student, teacher = draw(3, 4, 5, 5), draw(3, 4, 5, 5, seed=1)
    student = student + 0.7 * teacher
    expected = slow_pkd_of_a_batch(student, teacher)
    assert pkd(student, teacher).mean().item() == pytest.approx(expected, abs=1e-4)
    assert pkd(-teacher, teacher).mean().item() == pytest.approx(2.0, abs=1e-4)


def test_attention_transfer_needs_no_equal_channels() -> None:
    teacher = draw(2, 6, 4, 4)
    assert at(teacher[:, :1].repeat(1, 3, 1, 1), teacher[:, :1]).tolist() == pytest.approx([0, 0])
    one_here, one_there = torch.zeros(1, 2, 2, 2), torch.zeros(1, 5, 2, 2)
    one_here[:, :, 0, 0], one_there[:, :, 1, 1] = 3.0, 0.1
    assert at(one_here, one_there).item() == pytest.approx(2.0)  # as far apart as can be


def test_attention_transfer_does_not_fade_as_maps_grow() -> None:
    student, teacher = draw(1, 3, 8, 8), draw(1, 3, 8, 8, seed=1)
    larger = [side.repeat_interleave(4, 2).repeat_interleave(4, 3) for side in (student, teacher)]
    assert at(*larger).item() == pytest.approx(at(student, teacher).item(), rel=1e-4)


def test_attention_weighs_differences_that_stand_out() -> None:
    teacher = torch.zeros(1, 1, 1, 2)
    student = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
    low, high = math.tanh(0.5), math.tanh(1.5)
    expected = (low * 1 + high * 9) / (low + high)
    assert attention(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [cwd, mimic, pkd, attention, fgd_of_one_box])
def test_maps_of_other_shapes_are_refused_with_both_shapes(loss: Loss) -> None:
    with pytest.raises(CompressError, match=r"\(2, 1, 4, 4\).*\(2, 3, 4, 4\).*Leave this loss out"):
        loss(draw(2, 1, 4, 4), draw(2, 3, 4, 4))


def test_attention_transfer_refuses_maps_of_other_sizes() -> None:
    with pytest.raises(CompressError, match="at: maps"):
        at(draw(1, 2, 4, 4), draw(1, 3, 8, 8))


# ---- what all losses promise


@every_loss
def test_one_float32_value_an_image_that_falls_with_the_difference(loss: Loss) -> None:
    teacher = draw(3, 4, 5, 6)
    far = loss(teacher + draw(3, 4, 5, 6, seed=1), teacher)
    near = loss(teacher + draw(3, 4, 5, 6, seed=1, scale=0.1), teacher)
    assert far.shape == (3,)
    assert far.dtype == torch.float32
    assert (near < far).all()
    assert (near > 0).all()


@every_loss
def test_repeated_images_keep_the_mean(loss: Loss) -> None:
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    repeated = loss(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1))
    assert torch.allclose(repeated, loss(student, teacher).repeat(3), rtol=1e-4)


@every_loss
def test_more_channels_of_the_same_kind_keep_the_value(loss: Loss) -> None:
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    repeated = loss(student.repeat(1, 5, 1, 1), teacher.repeat(1, 5, 1, 1))
    assert torch.allclose(repeated, loss(student, teacher), rtol=1e-4)


@every_loss
def test_nothing_to_learn_from_oneself(loss: Loss) -> None:
    student = draw(2, 4, 5, 5, scale=3.0).requires_grad_(True)
    value = loss(student, student.detach().clone())
    value.sum().backward()
    assert student.grad is not None
    assert value.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert student.grad.abs().max() < 1e-6


@every_loss
def test_a_map_of_zeros_gives_finite_values_and_gradients(loss: Loss) -> None:
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for teacher in (torch.zeros(2, 3, 4, 4), draw(2, 3, 4, 4)):
        value = loss(student, teacher)
        value.sum().backward()
        assert student.grad is not None
        assert torch.isfinite(value).all()
        assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "attention"])
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    loss = LOSSES[name]
    student = (draw(2, 3, 4, 4).abs() + 0.5).requires_grad_(True)  # away from the bend of |x|
    teacher = draw(2, 3, 4, 4, seed=1)
    loss(student, teacher).mean().backward()
    assert student.grad is not None
    step = 3e-3  # losses are computed in float32
    for seed in range(5):
        direction = draw(2, 3, 4, 4, seed=seed + 10)
        with torch.no_grad():
            up = loss(student + step * direction, teacher).mean()
            down = loss(student - step * direction, teacher).mean()
        slope = (up - down).item() / (2 * step)
        assert (student.grad * direction).sum().item() == pytest.approx(slope, rel=0.02, abs=2e-3)


@every_loss
def test_the_teacher_gets_no_gradient(loss: Loss) -> None:
    student = draw(2, 3, 4, 4).requires_grad_(True)
    teacher = draw(2, 3, 4, 4, seed=1).requires_grad_(True)
    loss(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


@every_loss
@pytest.mark.parametrize("layout", ["channels_last", "view of a larger map", "expanded"])
def test_memory_layout_does_not_matter(loss: Loss, layout: str) -> None:
    student, teacher = draw(2, 4, 6, 6), draw(2, 4, 6, 6, seed=1)
    if layout == "expanded":
        student = student[:, :1].expand(2, 4, 6, 6)
    expected = loss(student.clone(), teacher.clone())
    if layout == "channels_last":
        student = student.contiguous(memory_format=torch.channels_last)
        teacher = teacher.contiguous(memory_format=torch.channels_last)
    elif layout == "view of a larger map":
        student = torch.nn.functional.pad(student, (1, 2, 3, 4))[:, :, 3:9, 1:7]
    assert not student.is_contiguous()
    assert torch.allclose(loss(student, teacher), expected, rtol=1e-4, atol=1e-6)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    student = draw(2, 8, 40, 40, scale=50.0).to(dtype).requires_grad_(True)
    teacher = draw(2, 8, 40, 40, seed=1, scale=50.0).to(dtype)
    value = loss(student, teacher)
    value.mean().backward()
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(student.float(), teacher.float()))
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@every_loss
@pytest.mark.parametrize("scale", [1e4, 1e8])
def test_large_values_do_not_overflow(loss: Loss, scale: float) -> None:
    student = draw(1, 2, 4, 4, scale=scale).requires_grad_(True)
    value = loss(student, draw(1, 2, 4, 4, seed=1, scale=scale))
    value.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(value).all()
    assert torch.isfinite(student.grad).all()


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    shape=st.tuples(*[st.integers(1, 5)] * 4),
    scale=st.floats(0.01, 100.0),
    seed=st.integers(0, 999),
)
def test_values_are_positive_and_follow_their_image(
    name: str, shape: tuple[int, int, int, int], scale: float, seed: int
) -> None:
    student, teacher = draw(*shape, seed=seed, scale=scale), draw(*shape, seed=seed + 1)
    value = LOSSES[name](student, teacher)
    assert value.shape == shape[:1]
    assert torch.isfinite(value).all()
    assert (value >= -1e-5).all()
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    shuffled = LOSSES[name](student[order], teacher[order])
    assert torch.allclose(shuffled, value[order], rtol=1e-3, atol=1e-5)


# ---- what single losses do not look at


def test_cwd_ignores_a_constant_in_each_channel() -> None:
    student, teacher = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    shifted = teacher + draw(2, 3, 1, 1, seed=2, scale=10.0)
    assert torch.allclose(cwd(student, shifted), cwd(student, teacher), atol=1e-5)


def test_attention_gradient_pulls_towards_the_teacher_by_the_weights() -> None:
    student, teacher = draw(1, 2, 3, 3).requires_grad_(True), draw(1, 2, 3, 3, seed=1)
    attention(student, teacher).sum().backward()
    difference = (student - teacher).detach()
    size = difference.abs().mean(1, keepdim=True)
    weights = torch.tanh(size / size.mean())
    expected = 2 * difference * weights / weights.mean() / difference.numel()
    assert student.grad is not None
    assert torch.allclose(student.grad, expected, atol=1e-6)
