"""What a training step does to weights in place of rounding all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.quantize.fake_quantizer import WeightQuantizer
from compress.quantize.noise import WeightNoise


def noisy(kind: str, share: float = 0.5, bits: int = 8) -> WeightQuantizer:
    quantizer = WeightQuantizer(bits)
    quantizer.noise = WeightNoise(kind, share)  # type: ignore[arg-type]
    return quantizer.train()


@pytest.fixture
def weight() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(16, 32, 3, 3)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_random_share_is_rounded_and_the_rest_is_left(weight: Tensor, share: float) -> None:
    quantizer = noisy("share", share, bits=4)
    rounded, out = quantizer.rounded(weight), quantizer(weight)
    left = out == weight
    assert torch.equal(out[~left], rounded[~left])
    assert float(left.float().mean()) == pytest.approx(1 - share, abs=0.03)
    assert not torch.equal(quantizer(weight), out)  # another share in the next step


def test_uniform_noise_is_as_wide_as_rounding_and_has_no_bias(weight: Tensor) -> None:
    quantizer = noisy("uniform")
    step = quantizer.scale(weight).reshape(-1, 1, 1, 1)
    noise = torch.stack([(quantizer(weight) - weight) / step for _ in range(20)])
    assert float(noise.abs().max()) <= 0.5 + 1e-4
    assert float(noise.mean()) == pytest.approx(0.0, abs=5e-3)
    assert float(noise.var()) == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("kind", ["share", "uniform"])
@pytest.mark.parametrize("learned", [False, True])
def test_evaluation_rounds_everything(weight: Tensor, kind: str, learned: bool) -> None:
    quantizer = noisy(kind, bits=4)
    if learned:
        quantizer.learn_scale(weight)
    quantizer.eval()
    steps = quantizer(weight) / quantizer.scale(weight).reshape(-1, 1, 1, 1)
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert len(quantizer(weight)[0].unique()) <= 15


@pytest.mark.parametrize("kind", ["full", "share", "uniform"])
def test_the_gradient_of_a_weight_passes_straight_through(weight: Tensor, kind: str) -> None:
    gradient = torch.randn_like(weight)
    weight.requires_grad_()
    noisy(kind)(weight).backward(gradient)
    assert weight.grad is not None
    assert torch.equal(weight.grad, gradient)


@pytest.mark.parametrize("kind", ["full", "share", "uniform"])
def test_learned_scales_learn_under_noise(weight: Tensor, kind: str) -> None:
    quantizer = noisy(kind, bits=4)
    quantizer.learn_scale(weight)
    (parameter,) = quantizer.parameters()
    (quantizer(weight) - weight).square().sum().backward()
    assert parameter.grad is not None
    assert torch.isfinite(parameter.grad).all()
    assert (parameter.grad != 0).all()


@pytest.mark.parametrize("kind", ["share", "uniform"])
def test_noise_is_a_function_of_torchs_seed(weight: Tensor, kind: str) -> None:
    quantizer = noisy(kind)

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return quantizer(weight)

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
