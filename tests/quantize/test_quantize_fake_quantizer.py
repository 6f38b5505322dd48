"""The INT8 grid of activations and weights: values, gradients, and the same grid in files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.quantize.fake_quantizer import FakeQuantizer, quantize_weight
from export.qdq import quantize_weight as quantize_weight_of_a_file
from export.ranges import QMAX, QMIN

ENDS = st.floats(-1e4, 1e4, width=32)
MAGNITUDES = st.sampled_from([1e-38, 1e-20, 1e-6, 0.02, 1.0, 300.0, 1e10])


def quantizer_of(low: float, high: float) -> FakeQuantizer:
    quantizer = FakeQuantizer()
    quantizer.set_range(low, high)
    return quantizer


def representable(quantizer: FakeQuantizer) -> tuple[float, float, float]:
    """Smallest value, largest value and step."""
    scale, zero = float(quantizer.scale.detach()), int(quantizer.zero_point)
    return (QMIN - zero) * scale, (QMAX - zero) * scale, scale


def values_around(low: float, high: float, seed: int) -> Tensor:
    """Values inside, at and beyond the range."""
    random = torch.Generator().manual_seed(seed)
    width = max(high - low, 1e-3)
    spread = low - width + 3 * width * torch.rand(4000, generator=random)
    return torch.cat([spread, torch.tensor([low, high, 0.0])])


@settings(max_examples=60, deadline=None)
@given(low=ENDS, high=ENDS, seed=st.integers(0, 9))
@example(low=0.0, high=0.0, seed=0)
@example(low=2.0, high=5.0, seed=0)
@example(low=-7.0, high=-3.0, seed=0)
@example(low=0.0, high=1e-40, seed=0)
def test_values_lie_on_one_grid_of_256_that_holds_zero(low: float, high: float, seed: int) -> None:
    low, high = min(low, high), max(low, high)
    quantizer = quantizer_of(low, high)
    x = values_around(low, high, seed)
    y = quantizer(x).detach()
    bottom, top, step = representable(quantizer)
    slack = 1e-5 * (top - bottom)
    assert torch.equal(quantizer(y), y)
    assert len(y.unique()) <= 256
    assert float(quantizer(torch.zeros(1))) == 0.0
    assert bottom - slack <= float(y.min())
    assert float(y.max()) <= top + slack
    inside = (x >= bottom) & (x <= top)
    assert float((x - y)[inside].abs().max()) <= step / 2 + slack
    assert float(y[x < bottom].max()) <= bottom + slack if (x < bottom).any() else True
    assert float(y[x > top].min()) >= top - slack if (x > top).any() else True


@settings(max_examples=60, deadline=None)
@given(low=ENDS, high=ENDS)
def test_a_range_is_covered_but_for_half_a_step(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    bottom, top, step = representable(quantizer_of(low, high))
    low, high = min(low, 0.0), max(high, 0.0)
    assert bottom <= low + 0.51 * step
    assert top >= high - 0.51 * step
    assert top - bottom == pytest.approx(max(high - low, step * 255), rel=1e-4)


def test_a_range_of_no_width_still_quantizes() -> None:
    assert representable(quantizer_of(0.0, 0.0))[:2] == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_training_cannot_make_a_scale_zero_or_negative(
    optimizer: type[torch.optim.Optimizer],
) -> None:
    quantizer = quantizer_of(-1e-3, 1e-3)
    steps = optimizer(quantizer.parameters(), lr=0.1)
    x = torch.randn(64) * 100
    for _ in range(60):
        steps.zero_grad()
        quantizer(x).abs().sum().backward()  # a loss that only shrinks the range
        steps.step()
    assert float(quantizer.scale.detach()) > 0
    assert torch.isfinite(quantizer(x)).all()


def lsq_gradient(x: Tensor, gradient: Tensor, scale: float, zero: int) -> float:
    """d loss / d scale of learned step size quantization (Esser et al. 2020), in plain numbers."""
    integer = torch.round(x / scale) + zero
    slope = torch.where(
        integer < QMIN,
        torch.tensor(float(QMIN - zero)),
        torch.where(
            integer > QMAX, torch.tensor(float(QMAX - zero)), torch.round(x / scale) - x / scale
        ),
    )
    return float((slope * gradient).sum())


@pytest.mark.parametrize("zero", [0, 17, 128, 255])
@pytest.mark.parametrize("factor", [1.0, 0.03])
def test_contract_of_torchs_learnable_quantizer(zero: int, factor: float) -> None:
    """What ``FakeQuantizer`` relies on in a function that torch does not document."""
    schema = torch.ops.aten._fake_quantize_learnable_per_tensor_affine.default._schema
    names = [argument.name for argument in schema.arguments]
    assert names == ["self", "scale", "zero_point", "quant_min", "quant_max", "grad_factor"]
    torch.manual_seed(zero)
    x = (torch.randn(5, 40) * 3).requires_grad_()
    scale = torch.tensor([0.0125], requires_grad=True)
    gradient = torch.randn(5, 40)
    y = torch._fake_quantize_learnable_per_tensor_affine(
        x, scale, torch.tensor([float(zero)]), QMIN, QMAX, factor
    )
    y.backward(gradient)
    assert x.grad is not None
    assert scale.grad is not None
    integer = torch.round(x.detach() / 0.0125) + zero
    inside = (integer >= QMIN) & (integer <= QMAX)
    assert 0 < int(inside.sum()) < x.numel()  # both kinds are tested
    assert torch.allclose(y.detach(), (integer.clamp(QMIN, QMAX) - zero) * 0.0125, atol=1e-6)
    assert torch.equal(x.grad, gradient * inside)
    expected = lsq_gradient(x.detach(), gradient, 0.0125, zero) * factor
    assert float(scale.grad) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_gradients_of_a_quantizer_are_those_of_lsq_scaled_by_its_size() -> None:
    torch.manual_seed(0)
    quantizer = quantizer_of(-1.0, 2.0)
    x = (torch.randn(3, 50) * 2).requires_grad_()
    gradient = torch.randn(3, 50)
    scale = quantizer.scale
    (of_scale,) = torch.autograd.grad(quantizer.scale, list(quantizer.parameters()))
    quantizer(x).backward(gradient)
    (parameter,) = quantizer.parameters()
    assert parameter.grad is not None
    expected = lsq_gradient(x.detach(), gradient, float(scale.detach()), int(quantizer.zero_point))
    expected *= float(of_scale) / math.sqrt(x.numel() * QMAX)
    assert float(parameter.grad) == pytest.approx(expected, rel=1e-3)


def random_weight(seed: int, magnitude: float) -> Tensor:
    """(out, in, kh, kw) with channels of other magnitude, of zeros and of ties."""
    random = torch.Generator().manual_seed(seed)
    shape = [int(n) for n in torch.randint(1, 9, (4,), generator=random)]
    weight = torch.randn([shape[0] + 3, *shape[1:]], generator=random) * magnitude
    weight *= 10 ** torch.randint(-3, 3, (len(weight), 1, 1, 1), generator=random)
    weight[0] = 0.0
    weight[1] = torch.randint(-254, 255, weight[1].shape, generator=random) * magnitude / 2
    return weight


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), magnitude=MAGNITUDES)
def test_weights_of_a_file_are_those_of_training_bit_for_bit(seed: int, magnitude: float) -> None:
    weight = random_weight(seed, magnitude)
    trained = quantize_weight(weight).numpy()
    integers, scales = quantize_weight_of_a_file(weight.numpy())
    assert integers.dtype == np.int8
    assert scales.dtype == np.float32
    assert np.array_equal(integers.astype(np.float32) * scales.reshape(-1, 1, 1, 1), trained)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_weights_are_symmetric_narrow_and_per_channel(seed: int) -> None:
    weight = random_weight(seed, 0.1).numpy()
    integers, scales = quantize_weight_of_a_file(weight)
    peaks = np.abs(integers.astype(int)).reshape(len(integers), -1).max(1)
    dead = np.abs(weight).reshape(len(weight), -1).max(1) == 0
    assert (peaks[~dead] == 127).all()  # each channel uses its whole grid, and no -128
    assert (peaks[dead] == 0).all()
    assert (scales > 0).all()
    error = np.abs(integers * scales.reshape(-1, 1, 1, 1) - weight)
    assert (error <= 0.501 * scales.reshape(-1, 1, 1, 1)).all()


def test_the_gradient_of_a_weight_passes_straight_through() -> None:
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    gradient = torch.randn(4, 3, 3, 3)
    quantize_weight(weight).backward(gradient)
    assert weight.grad is not None
    assert torch.equal(weight.grad, gradient)
