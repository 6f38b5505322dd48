"""CWD against numbers worked out by hand, and as a function: gradients, precision, layout."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.distill.losses import cwd


def features(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def slow_cwd(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """The formula, one number at a time, in double precision."""
    total = 0.0
    batch, channels = student.shape[:2]
    for image in range(batch):
        for channel in range(channels):
            ours = _softmax(student[image, channel].flatten().tolist(), temperature)
            theirs = _softmax(teacher[image, channel].flatten().tolist(), temperature)
            total += sum(t * math.log(t / o) for o, t in zip(ours, theirs, strict=True))
    return temperature**2 * total / (batch * channels)


def _softmax(values: list[float], temperature: float) -> list[float]:
    powers = [math.exp((value - max(values)) / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def test_two_positions_by_hand() -> None:
    student = torch.zeros(1, 1, 1, 2)  # 1/2, 1/2
    teacher = torch.tensor([0.0, math.log(3.0)]).reshape(1, 1, 1, 2)  # 1/4, 3/4
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert cwd(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_temperature_softens_and_rescales_by_hand() -> None:
    student = torch.zeros(1, 1, 1, 2)
    teacher = torch.tensor([0.0, 2 * math.log(3.0)]).reshape(1, 1, 1, 2)
    expected = 4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert cwd(student, teacher, temperature=2.0).item() == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    temperature=st.floats(0.25, 8.0),
    scale=st.floats(0.0, 10.0),
    seed=st.integers(0, 999),
)
def test_cwd_equals_a_slow_reference(
    shape: tuple[int, int, int, int], temperature: float, scale: float, seed: int
) -> None:
    student = features(*shape, seed=seed, scale=scale)
    teacher = features(*shape, seed=seed + 1, scale=scale)
    expected = slow_cwd(student, teacher, temperature)
    assert cwd(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_more_images_or_channels_of_the_same_kind_change_nothing() -> None:
    student, teacher = features(1, 2, 4, 4), features(1, 2, 4, 4, seed=1)
    once = cwd(student, teacher)
    assert torch.allclose(cwd(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1)), once)
    assert torch.allclose(cwd(student.repeat(1, 5, 1, 1), teacher.repeat(1, 5, 1, 1)), once)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_is_that_of_finite_differences(temperature: float) -> None:
    student = features(2, 3, 3, 3).requires_grad_(True)
    teacher = features(2, 3, 3, 3, seed=1)
    cwd(student, teacher, temperature).backward()
    step = 1e-2  # the loss is computed in float32
    for index in [(0, 0, 0, 0), (0, 2, 1, 2), (1, 1, 2, 0), (1, 2, 2, 2)]:
        up, down = student.detach().clone(), student.detach().clone()
        up[index] += step
        down[index] -= step
        slope = (cwd(up, teacher, temperature) - cwd(down, teacher, temperature)) / (2 * step)
        assert student.grad[index].item() == pytest.approx(slope.item(), rel=0.02, abs=1e-4)


def test_nothing_to_learn_from_oneself() -> None:
    student = features(2, 4, 5, 5, scale=5.0).requires_grad_(True)
    loss = cwd(student, student.detach().clone())
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert student.grad.abs().max() < 1e-7


def test_a_constant_in_each_channel_does_not_matter() -> None:
    student, teacher = features(2, 3, 4, 4), features(2, 3, 4, 4, seed=1)
    shifted = teacher + features(2, 3, 1, 1, seed=2, scale=10.0)
    assert torch.allclose(cwd(student, shifted), cwd(student, teacher), atol=1e-5)


def test_the_teacher_gets_no_gradient() -> None:
    student = features(1, 2, 3, 3).requires_grad_(True)
    teacher = features(1, 2, 3, 3, seed=1).requires_grad_(True)
    cwd(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("layout", ["channels_last", "view of a larger map", "expanded"])
def test_memory_layout_does_not_matter(layout: str) -> None:
    student, teacher = features(2, 4, 6, 6), features(2, 4, 6, 6, seed=1)
    if layout == "expanded":
        student = student[:, :1].expand(2, 4, 6, 6)
    expected = cwd(student.clone(), teacher.clone())
    if layout == "channels_last":
        student = student.contiguous(memory_format=torch.channels_last)
        teacher = teacher.contiguous(memory_format=torch.channels_last)
    elif layout == "view of a larger map":
        student = torch.nn.functional.pad(student, (1, 2, 3, 4))[:, :, 3:9, 1:7]
    assert not student.is_contiguous()
    assert torch.allclose(cwd(student, teacher), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student = features(2, 8, 80, 80, scale=50.0).to(dtype)
    teacher = features(2, 8, 80, 80, seed=1, scale=50.0).to(dtype)
    loss = cwd(student, teacher)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(cwd(student.float(), teacher.float()).item(), rel=1e-6)
    assert loss.item() > 10


def test_large_values_do_not_overflow() -> None:
    student = features(1, 2, 4, 4, scale=1e4).requires_grad_(True)
    loss = cwd(student, features(1, 2, 4, 4, seed=1, scale=1e4))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
