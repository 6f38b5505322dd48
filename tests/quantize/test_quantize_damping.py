"""The penalty on weights that swing between two integers."""

from __future__ import annotations

import pytest
import torch
from quantize_nets import simulated
from torch import Tensor, nn

from compress.models.trainer import TrainingRun
from compress.quantize.damping import LOSS_NAME, Damping, risen, swing
from compress.quantize.fake_quantizer import WeightQuantizer


def test_it_is_the_squared_distance_to_the_grid_of_each_filter() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float32).requires_grad_()
    quantizer = WeightQuantizer(3)
    quantizer.set_scale(0.5 * quantizer.scale(weight))  # so that some are clipped
    value = swing(weight, quantizer)
    value.backward()
    assert weight.grad is not None
    expected = 0.0
    for channel, scale in enumerate(quantizer.scale(weight).detach().double()):
        ratio = weight[channel].detach().double() / scale
        away = (ratio.round().clamp(-3, 3) - ratio.clamp(-3, 3)) * scale
        expected += float(away.square().mean())
        slope = torch.where(ratio.abs() <= 3, -2 * away / away.numel(), 0.0)
        assert torch.allclose(weight.grad[channel].double(), slope, atol=1e-6)
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert all(parameter.grad is None for parameter in quantizer.parameters())


def test_pressed_on_weights_settle_on_the_grid() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(5, 4, 3, 3))
    quantizer = WeightQuantizer(4)
    steps = torch.optim.SGD([weight], lr=5.0)
    before = float(swing(weight, quantizer).detach())
    for _ in range(30):
        steps.zero_grad()
        swing(weight, quantizer).backward()
        steps.step()
    assert float(swing(weight, quantizer).detach()) < 1e-4 * before


@pytest.mark.parametrize("epochs", [1, 2, 5, 20])
@pytest.mark.parametrize("start", [0.0, 0.25, 0.9])
def test_its_weight_rises_from_nothing_to_all(epochs: int, start: float) -> None:
    weights = [risen(0.1, start, epoch, epochs) for epoch in range(epochs)]
    assert weights == sorted(weights)
    assert weights[-1] == pytest.approx(0.1)
    assert all(weight == 0 for weight in weights[: int(start * epochs)])


def test_half_way_it_is_half_the_weight() -> None:
    assert risen(1.0, 0.5, 14, 20) == pytest.approx(0.5)


def test_it_is_a_loss_of_its_own_beside_the_others(net: nn.Module, images: Tensor) -> None:
    """Counted once an image, and nothing before its start."""
    simulation = simulated(net, images)
    damping = Damping(2.0, 0.5, simulation.placement.convs)
    damping.begin(
        TrainingRun(4, 1, 4, torch.device("cpu"), average=lambda: simulation.model, arguments=None)
    )
    base = torch.tensor([1.0, 2.0])
    criterion = damping.wrap_criterion(
        simulation.model, lambda preds, batch: (base, {"box_loss": base[0]})
    )
    total = sum(
        float(swing(simulation.convolution(name).weight, quantizer).detach())
        for name, quantizer in simulation.weights.items()
    )
    for epoch, share in enumerate([0.0, 0.0, 0.5, 1.0]):
        damping.start_epoch(epoch)
        loss, items = criterion(None, {"img": images})
        assert list(items) == ["box_loss", LOSS_NAME]
        assert damping.loss_names() == [LOSS_NAME]
        assert float(items[LOSS_NAME]) == pytest.approx(2.0 * share * total, rel=1e-4)
        assert torch.equal(loss[:2], base)
        assert float(loss[2].detach()) == pytest.approx(
            float(items[LOSS_NAME]) * len(images), rel=1e-5
        )
    damping.close()
