"""Means that rounding of weights takes away come back through the biases."""

from __future__ import annotations

import pytest
import torch
from quantize_nets import simulated
from small_nets import IMGSZ, output_of
from torch import Tensor, nn

from compress.models.exportable import fused_copy
from compress.quantize.bias_correction import correct_biases, mean_output, mean_patch
from compress.quantize.calibration import calibrate
from compress.quantize.prepare import simulate
from compress.quantize.simulation import Simulation

CONVS = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 5, "padding": 4, "dilation": 2},
    {"kernel_size": (1, 3), "padding": (0, 1)},
    {"kernel_size": 3, "groups": 4},
    {"kernel_size": 3, "padding": 1, "groups": 8},
]


@pytest.mark.parametrize("arguments", CONVS)
def test_the_mean_output_follows_from_the_mean_of_what_is_seen(arguments: dict[str, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, bias=False, **arguments)
    x = torch.randn(3, 8, 11, 14) + torch.arange(8.0).reshape(8, 1, 1)
    expected = conv(x).mean((0, 2, 3))
    found = mean_output(conv.weight, mean_patch(x, conv))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def coarse(net: nn.Module, images: Tensor) -> Simulation:
    """The net with 4-bit weights, whose rounding moves means visibly."""
    simulation = simulate(net, IMGSZ, [], weight_bits=4)
    calibrate(simulation, [images], "minmax", 100.0)
    return simulation


def means(model: nn.Module, images: Tensor, layer: int) -> Tensor:
    """Mean (channels,) of what a layer gives."""
    seen = []
    handle = model.model[layer].register_forward_hook(lambda *call: seen.append(call[2]))
    output_of(model, images)
    handle.remove()
    return seen[0].mean((0, 2, 3))


def test_corrected_layers_have_the_means_of_the_float_net(net: nn.Module, images: Tensor) -> None:
    plain, corrected = coarse(net, images), coarse(net, images)
    correct_biases(corrected, [images])
    expected = fused_copy(net)
    off = [
        sum(
            float((means(model, images, layer) - means(expected, images, layer)).abs().mean())
            for layer in (0, 1, 3, 5, 7)
        )
        for model in (plain.model, corrected.model)
    ]
    assert off[1] < 0.8 * off[0]


def test_the_first_layers_output_has_exactly_the_mean_of_its_float_weights(
    net: nn.Module, images: Tensor
) -> None:
    simulation = coarse(net, images)
    conv, rounding = simulation.convolution("model.0.conv"), simulation.weights["model.0.conv"]
    bias = conv.bias.detach().clone()
    correct_biases(simulation, [images])
    x = (images * 255).round() / 255
    target = nn.functional.conv2d(x, conv.weight, bias, 2, 1).mean((0, 2, 3))
    found = nn.functional.conv2d(x, rounding(conv.weight), conv.bias, 2, 1).mean((0, 2, 3))
    torch.testing.assert_close(found, target, rtol=1e-3, atol=1e-4)


def test_batches_of_any_size_correct_the_first_layer_alike(net: nn.Module, images: Tensor) -> None:
    biases = []
    for batches in ([images], list(images.split(3))):
        simulation = coarse(net, images)
        correct_biases(simulation, batches)
        biases.append(simulation.convolution("model.0.conv").bias)
    torch.testing.assert_close(biases[0], biases[1], rtol=1e-4, atol=1e-5)


def test_only_biases_of_int8_convolutions_change(net: nn.Module, images: Tensor) -> None:
    simulation = simulated(net, images, float_layers=["model.2.*"])
    before = {name: value.clone() for name, value in simulation.model.state_dict().items()}
    correct_biases(simulation, [images])
    after = simulation.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= {f"{name}.bias" for name in simulation.placement.convs}
    assert not any(name.startswith("model.2.") for name in changed)
    hooked = [m for m in simulation.model.modules() if m._forward_pre_hooks]
    assert hooked == [simulation.model.model[0]]  # the input's own quantizer


def test_weights_without_rounding_error_need_no_correction(net: nn.Module, images: Tensor) -> None:
    simulation = simulated(net, images)
    for name, rounding in simulation.weights.items():
        conv = simulation.convolution(name)
        conv.weight.data.sign_().mul_(rounding.qmax)  # whole numbers, scale 1
    before = {n: simulation.convolution(n).bias.clone() for n in simulation.weights}
    correct_biases(simulation, [images])
    for name, bias in before.items():
        torch.testing.assert_close(simulation.convolution(name).bias.data, bias.data)


def test_a_dead_channel_and_a_black_image_change_nothing_and_stay_finite(
    net: nn.Module, images: Tensor
) -> None:
    net.model[5].conv.weight.data[0].zero_()
    simulation = simulated(net, images)
    before = float(simulation.convolution("model.5.conv").bias[0])
    correct_biases(simulation, [torch.zeros(1, 3, IMGSZ, IMGSZ)])
    assert float(simulation.convolution("model.5.conv").bias[0]) == before
    assert torch.isfinite(output_of(simulation.model, images)).all()
