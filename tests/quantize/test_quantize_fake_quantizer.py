"""The INT8 grid of activations and weights: values, gradients, and the same grid in files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.quantize.fake_quantizer import FakeQuantizer, WeightQuantizer, least_error_scale
from compress.quantize.rounded_silu import rounded_silu
from compress.quantize.rounding import round_to_grid
from export.qdq import quantize_weight as quantize_weight_of_a_file
from export.qdq import weight_scale
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
@pytest.mark.parametrize("fused", [False, True])
def test_values_and_gradients_of_rounding(zero: int, factor: float, fused: bool) -> None:
    """Ours, and torch's undocumented kernel that takes its place on a GPU."""
    schema = torch.ops.aten._fake_quantize_learnable_per_tensor_affine.default._schema
    names = [argument.name for argument in schema.arguments]
    assert names == ["self", "scale", "zero_point", "quant_min", "quant_max", "grad_factor"]
    torch.manual_seed(zero)
    x = (torch.randn(5, 40) * 3).requires_grad_()
    scale = torch.tensor([0.0125], requires_grad=True)
    gradient = torch.randn(5, 40)
    offset = torch.tensor([zero + 1e-4])  # what an average leaves of an integer
    if fused:
        y = torch._fake_quantize_learnable_per_tensor_affine(x, scale, offset, QMIN, QMAX, factor)
    else:
        y = round_to_grid(x, scale, offset, factor)
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


def test_a_nan_is_not_rounded_away() -> None:
    x = torch.tensor([0.5, float("nan")])
    assert torch.isnan(quantizer_of(-1.0, 1.0)(x))[1]


def test_the_gradient_of_a_scale_survives_a_large_map() -> None:
    """It is a small difference of two large sums."""
    torch.manual_seed(0)
    x, gradient = torch.randn(4, 16, 80, 80) * 2, torch.randn(4, 16, 80, 80)
    scale = torch.tensor([0.03], requires_grad=True)
    round_to_grid(x, scale, torch.tensor([90.0]), 1.0).backward(gradient)
    assert scale.grad is not None
    expected = lsq_gradient(x.double(), gradient.double(), float(scale.detach()), 90)
    noise = math.sqrt(x.numel() / 12)  # what rounding alone makes of random gradients
    assert float(scale.grad) == pytest.approx(expected, rel=1e-3, abs=0.02 * noise)


@pytest.mark.parametrize("batch", [1, 4])
def test_gradients_of_a_quantizer_are_those_of_lsq_scaled_by_one_image(batch: int) -> None:
    torch.manual_seed(0)
    quantizer = quantizer_of(-1.0, 2.0)
    x = (torch.randn(batch, 3, 50) * 2).requires_grad_()
    gradient = torch.randn(batch, 3, 50)
    scale = quantizer.scale
    (of_scale,) = torch.autograd.grad(quantizer.scale, list(quantizer.parameters()))
    quantizer(x).backward(gradient)
    (parameter,) = quantizer.parameters()
    assert parameter.grad is not None
    expected = lsq_gradient(x.detach(), gradient, float(scale.detach()), int(quantizer.zero_point))
    expected *= float(of_scale) / math.sqrt(150 * QMAX)
    assert float(parameter.grad) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-6.0, 2.0), (0.0, 0.5)])
def test_a_symmetric_range_has_its_middle_at_zero(low: float, high: float) -> None:
    quantizer = FakeQuantizer(symmetric=True)
    quantizer.set_range(low, high)
    bottom, top, step = representable(quantizer)
    assert int(quantizer.zero_point) == 128
    assert top == pytest.approx(max(-low, high), rel=1e-5)
    assert bottom == pytest.approx(-128 * step)


@pytest.mark.parametrize("clipped", [False, True])
def test_a_looked_up_silu_is_that_of_its_three_points(clipped: bool) -> None:
    """Values, and gradients of input and scales; the sigmoid's range is fixed."""
    torch.manual_seed(1)
    reach = 1.5 if clipped else 20.0
    before, behind = quantizer_of(-reach, reach), quantizer_of(-0.2, 0.6 * reach)
    sigmoid = FakeQuantizer()
    sigmoid.set_range(0.0, 1.0, fixed=True)
    values = torch.randn(3, 4, 6, 7) * 3
    gradient = torch.randn_like(values)
    found = []
    for looked_up in (True, False):
        x = values.clone().requires_grad_()
        if looked_up:
            out = rounded_silu(x, before, sigmoid, behind)
        else:
            y = before(x)
            out = behind(y * sigmoid(torch.sigmoid(y)))
        scales = [before.log_scale, behind.log_scale]
        found.append([out.detach(), *torch.autograd.grad(out, [x, *scales], gradient)])
    for ours, slow in zip(*found, strict=True):
        assert torch.allclose(ours, slow, rtol=1e-3, atol=1e-5)
    assert all(float(gradient.abs().sum()) > 0 for gradient in found[0])


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
@given(seed=st.integers(0, 10**6), magnitude=MAGNITUDES, bits=st.integers(2, 8))
def test_weights_of_a_file_are_those_of_training_bit_for_bit(
    seed: int, magnitude: float, bits: int
) -> None:
    weight = random_weight(seed, magnitude)
    quantizer = WeightQuantizer(bits)
    scales = quantizer.scale(weight)
    trained = quantizer(weight).numpy()
    integers = quantize_weight_of_a_file(weight.numpy(), scales.numpy(), quantizer.qmax)
    assert integers.dtype == np.int8
    assert np.array_equal(weight_scale(weight.numpy(), quantizer.qmax), scales.numpy())
    steps = scales.numpy().reshape(-1, 1, 1, 1)
    assert np.array_equal(integers.astype(np.float32) * steps, trained)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8))
def test_weights_are_symmetric_narrow_and_per_channel(seed: int, bits: int) -> None:
    weight = random_weight(seed, 0.1)
    quantizer = WeightQuantizer(bits)
    steps = quantizer.scale(weight).reshape(-1, 1, 1, 1)
    rounded = quantizer(weight)
    peaks = (rounded / steps).round().abs().flatten(1).amax(1)
    dead = weight.abs().flatten(1).amax(1) == 0
    assert (peaks[~dead] == 2 ** (bits - 1) - 1).all()  # each channel uses its whole grid
    assert (peaks[dead] == 0).all()
    assert (steps > 0).all()
    assert ((rounded - weight).abs() <= 0.501 * steps).all()


def test_the_gradient_of_a_weight_passes_straight_through() -> None:
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    gradient = torch.randn(4, 3, 3, 3)
    WeightQuantizer()(weight).backward(gradient)
    assert weight.grad is not None
    assert torch.equal(weight.grad, gradient)


@pytest.mark.parametrize("bits", [3, 8])
def test_gradients_of_learned_weight_scales_are_scaled_by_one_channel(bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3, 3)
    quantizer = WeightQuantizer(bits)
    quantizer.set_scale(0.7 * quantizer.scale(weight))  # so that some weights are clipped
    (parameter,) = quantizer.parameters()
    weight.requires_grad_()
    gradient = torch.randn_like(weight)
    quantizer(weight).backward(gradient)
    assert parameter.grad is not None
    assert weight.grad is not None
    for channel, scale in enumerate(quantizer.scale(weight).detach().double()):
        ratio = weight[channel].detach().double() / scale
        end = quantizer.qmax
        slope = torch.where(ratio.abs() <= end + 0.5, ratio.round() - ratio, ratio.sign() * end)
        expected = float((slope * gradient[channel]).sum() * scale / math.sqrt(36 * end))
        assert float(parameter.grad[channel]) == pytest.approx(expected, rel=1e-3, abs=1e-6)
        inside = ratio.abs() <= end + 0.5
        assert 0 < int(inside.sum()) < 36
        assert torch.equal(weight.grad[channel], gradient[channel] * inside)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_learned_weight_scales_stay_near_their_start(
    optimizer: type[torch.optim.Optimizer],
) -> None:
    weight = torch.randn(6, 4, 3, 3)
    weight[2] = 0.0  # a dead channel
    quantizer = WeightQuantizer(4)
    quantizer.learn_scale(weight)
    start = quantizer.scale(weight).detach().clone()
    steps = optimizer(quantizer.parameters(), lr=1.0)
    for _ in range(30):
        steps.zero_grad()
        quantizer(weight).square().sum().backward()
        steps.step()
    scale = quantizer.scale(weight).detach()
    assert ((scale / start <= 4.001) & (scale / start >= 0.249)).all()
    assert not torch.equal(scale, start)
    assert torch.isfinite(quantizer(weight)).all()


def test_a_start_with_few_bits_clips_where_that_errs_less() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 16, 3, 3)
    weight[0, 0, 0, 0] = 100.0  # clipping this costs more than it gives
    for bits in (2, 4, 8):
        plain, learned = WeightQuantizer(bits), WeightQuantizer(bits)
        learned.learn_scale(weight)
        errors = [
            (quantizer(weight).detach() - weight).square().flatten(1).sum(1)
            for quantizer in (plain, learned)
        ]
        if bits == 8:
            assert torch.allclose(errors[0], errors[1], rtol=1e-2)
        else:
            assert (errors[1] <= errors[0] * 1.0001).all()
            assert float(errors[1][1:].sum()) < 0.9 * float(errors[0][1:].sum())
    assert torch.equal(least_error_scale(torch.zeros(2, 3), 7) > 0, torch.tensor([True, True]))
