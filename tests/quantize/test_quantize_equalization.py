"""Channels that are made alike must leave every output as it was."""

from __future__ import annotations

import onnx
import pytest
import torch
from quantize_nets import simulated
from small_nets import IMGSZ, output_of
from torch import Tensor, nn

from compress.models.exportable import fused_copy
from compress.quantize.equalization import (
    equalizable_pairs,
    equalization_note,
    equalize_pairs,
    equalized,
)
from compress.quantize.prepare import float_graph


def with_activation(net: nn.Module, make: type[nn.Module]) -> nn.Module:
    for module in net.modules():
        if isinstance(getattr(module, "act", None), nn.SiLU):
            module.act = make()
    return net


def uneven(net: nn.Module) -> nn.Module:
    """The same function by channels that differ by factors of up to 30."""
    torch.manual_seed(0)
    for first, second in equalizable_pairs(float_graph(net, IMGSZ)):
        norm = net.get_submodule(first.removesuffix(".conv")).bn
        factor = torch.empty(norm.num_features).uniform_(-1.7, 1.7).exp()
        norm.weight.data *= factor
        norm.bias.data *= factor
        reader = net.get_submodule(second)
        if reader.groups == 1:
            reader.weight.data /= factor.reshape(1, -1, 1, 1)
        else:  # depthwise
            reader.weight.data /= factor.reshape(-1, 1, 1, 1)
    return net


@pytest.fixture
def relu_net(net: nn.Module) -> nn.Module:
    return uneven(with_activation(net, nn.ReLU))


@pytest.fixture
def graph(relu_net: nn.Module) -> onnx.ModelProto:
    return float_graph(relu_net, IMGSZ)


def spread(conv: nn.Module) -> float:
    peak = conv.weight.detach().abs().flatten(1).amax(1)
    return float(peak.max() / peak.min())


def test_an_equalized_relu_net_computes_the_same(
    relu_net: nn.Module, graph: onnx.ModelProto, images: Tensor
) -> None:
    result, count = equalized(relu_net, graph)
    assert count >= 10
    assert f"{count} pairs" in equalization_note(graph)
    expected = output_of(relu_net, images)
    torch.testing.assert_close(output_of(result, images), expected, rtol=1e-3, atol=1e-3)
    before, after = (dict(fused_copy(model).named_parameters()) for model in (relu_net, result))
    changed = [name for name in after if not torch.allclose(after[name], before[name], rtol=1e-3)]
    assert len(changed) > count  # weights and biases


def test_leaky_relu_is_equalized_exactly_too(net: nn.Module, images: Tensor) -> None:
    net = uneven(with_activation(net, nn.LeakyReLU))
    result, count = equalized(net, float_graph(net, IMGSZ))
    assert count >= 10
    expected = output_of(net, images)
    torch.testing.assert_close(output_of(result, images), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [nn.SiLU, nn.ReLU6, nn.Hardswish])
def test_other_activations_are_left_alone(net: nn.Module, make: type[nn.Module]) -> None:
    net = with_activation(net, make)
    graph = float_graph(net, IMGSZ)
    assert equalized(net, graph) == (net, 0)
    assert "nothing to do" in equalization_note(graph)


def test_pairs_are_only_where_nothing_else_reads(
    relu_net: nn.Module, graph: onnx.ModelProto
) -> None:
    pairs = equalizable_pairs(graph)
    assert ("model.0.conv", "model.1.conv") in pairs
    assert ("model.2.m.0.cv1.conv", "model.2.m.0.cv2.conv") in pairs
    assert ("model.22.cv2.0.1.conv", "model.22.cv2.0.2") in pairs
    firsts = {first for first, _ in pairs}
    assert "model.2.cv1.conv" not in firsts  # split
    assert "model.2.m.0.cv2.conv" not in firsts  # added, then concatenated
    assert "model.9.cv1.conv" not in firsts  # pooled
    assert "model.4.cv2.conv" not in firsts  # read by the next layer and by the neck


def test_channels_get_closer_to_each_other() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 4, 3)
    factor = torch.logspace(-1, 1, 8).reshape(8, 1, 1, 1)
    first.weight.data *= factor
    first.bias.data *= factor.flatten()
    second.weight.data /= factor.reshape(1, 8, 1, 1)
    before = spread(first)
    equalize_pairs([(first, second)])
    assert spread(first) < 0.2 * before
    written = torch.maximum(first.weight.abs().flatten(1).amax(1), first.bias.abs())
    torch.testing.assert_close(written, second.weight.abs().amax((0, 2, 3)))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_grouped_convolutions_keep_their_function(groups: int) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(4, 8, 3, groups=min(groups, 4))
    second, third = nn.Conv2d(8, 8, 3, groups=groups), nn.Conv2d(8, 5, 1)
    for conv in (first, second):
        conv.weight.data *= torch.rand(8, 1, 1, 1) * 10
    net = nn.Sequential(first, nn.ReLU(), second, nn.LeakyReLU(), third).double()
    x = torch.randn(2, 4, 9, 9).double()
    expected = net(x)
    weight = first.weight.clone()
    equalize_pairs([(first, second), (second, third)])
    torch.testing.assert_close(net(x), expected)
    assert not torch.allclose(first.weight, weight)


def test_dead_channels_stay_as_they_are_and_nearly_dead_ones_stay_finite() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 6, 3), nn.Conv2d(6, 4, 3)
    first.weight.data[0].zero_()
    first.bias.data[0] = 0.0
    first.weight.data[1].zero_()  # dead, but with a bias
    first.weight.data[2] *= 1e-30  # nearly dead, with a bias
    second.weight.data[:, 3].zero_()  # nobody reads it
    x, kept = torch.randn(2, 4, 9, 9), first.weight.data[3].clone()
    expected = second(first(x).relu())
    equalize_pairs([(first, second)])
    torch.testing.assert_close(second(first(x).relu()), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(first.weight.data[3], kept)
    assert float(first.bias.abs().max()) < 10
    assert not first.weight.data[0].any()


def test_int8_of_an_uneven_relu_net_comes_closer_to_float(
    relu_net: nn.Module, graph: onnx.ModelProto, images: Tensor
) -> None:
    result, _ = equalized(relu_net, graph)
    expected = output_of(fused_copy(relu_net), images)
    before, after = (
        (output_of(simulated(model, images).model, images) - expected)[:, 4:].square().mean()
        for model in (relu_net, result)
    )
    assert after < 0.5 * before
