"""Gradients of the loss on train images: right, of single images where asked, without a trace."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from small_nets import IMGSZ, Silent
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.gradients import loss_gradients
from compress.models.train_samples import train_samples

Gradients = Callable[..., nn.Module]


@pytest.fixture
def gradients(data_yaml: Path) -> Gradients:
    def measure(
        model: nn.Module, batches: int = 1, batch: int = 4, seed: int = 0, squared: bool = False
    ) -> nn.Module:
        return loss_gradients(
            model, data_yaml, IMGSZ, batches, batch, seed, "cpu", squared, Silent()
        )

    return measure


def values(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def validation_gradient(model: nn.Module, data_yaml: Path, images: int) -> Tensor:
    """Of the loss as validation computes it, in eval mode, on a whole batch."""
    samples = train_samples(model, data_yaml, IMGSZ, images, seed=0)
    model = deepcopy(model).eval().requires_grad_(True)
    model.args = samples.arguments
    (batch,) = samples.batches(images, torch.device("cpu"))
    loss = model.loss(batch)[0].sum() / images
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    whole = [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(model.parameters(), found, strict=True)
    ]
    return torch.cat([gradient.flatten() for gradient in whole])


def test_the_gradient_is_that_of_validation(
    net: nn.Module, gradients: Gradients, data_yaml: Path
) -> None:
    found = values(gradients(net, batches=1, batch=4))
    expected = validation_gradient(net, data_yaml, images=4)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_small_step_against_it_lowers_the_loss(
    net: nn.Module, gradients: Gradients, data_yaml: Path
) -> None:
    found = gradients(net, batches=2, batch=8)
    samples = train_samples(net, data_yaml, IMGSZ, 16, seed=0)
    (batch,) = samples.batches(16, torch.device("cpu"))
    losses = []
    for step in (0.0, 1e-3 / float(values(found).norm())):
        moved = deepcopy(net)
        moved.args = samples.arguments
        with torch.no_grad():
            for weight, gradient in zip(moved.parameters(), found.parameters(), strict=True):
                weight -= step * gradient
            losses.append(float(moved.loss(batch)[0].sum()))
    assert losses[1] < losses[0]


def test_squares_are_of_single_images(net: nn.Module, gradients: Gradients) -> None:
    """The mean of squares is never below the square of the mean, and above it where they differ."""
    mean = values(gradients(net, batches=6, batch=1))
    squares = values(gradients(net, batches=3, batch=2, squared=True))
    assert (squares >= mean.pow(2) * 0.999 - 1e-12).all()
    assert squares.sum() > 1.5 * mean.pow(2).sum()


def test_of_one_image_the_square_is_the_square(net: nn.Module, gradients: Gradients) -> None:
    mean = values(gradients(net, batch=1))
    assert torch.allclose(values(gradients(net, batch=1, squared=True)), mean.pow(2), rtol=1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_the_model_stays_as_it_is(net: nn.Module, gradients: Gradients, squared: bool) -> None:
    before = deepcopy(net)
    gradients(net, squared=squared)
    state = net.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.state_dict().items())
    assert not net.training
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert vars(net).keys() == vars(before).keys()


def test_the_seed_decides_the_images(net: nn.Module, gradients: Gradients) -> None:
    first = values(gradients(net, seed=1))
    assert torch.equal(values(gradients(net, seed=1)), first)
    assert not torch.equal(values(gradients(net, seed=2)), first)


def test_the_structure_is_the_models(net: nn.Module, gradients: Gradients) -> None:
    found = gradients(net)
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    assert {name: value.shape for name, value in found.state_dict().items()} == shapes
    assert values(found).count_nonzero() > 0.5 * len(values(found))


def test_a_broken_checkpoint_is_named(net: nn.Module, gradients: Gradients) -> None:
    net.model[0].conv.weight.data[0] = float("nan")
    with pytest.raises(
        CompressError, match=r"gradient of 'model\.0\.conv\.weight'.*train it again"
    ):
        gradients(net)
