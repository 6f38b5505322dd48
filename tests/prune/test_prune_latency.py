"""Time as a cost of channels, and the search for a share that is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_nets import IMGSZ
from torch import nn

from bench.conv_graph import DEPTHWISE
from bench.layers import ConvShape, Grid, LayerTable
from compress.errors import CompressError
from compress.prune.latency import TOLERANCE, conv_shapes, latency_cost, reach_share


def table_of(shapes: list[ConvShape]) -> LayerTable:
    """Times in proportion to inputs x outputs."""
    ends = (16, 512)
    grid = Grid(ends, ends, tuple(tuple(float(i * o) for o in ends) for i in ends))
    return LayerTable("", None, 1, 1, {shape.geometry: grid for shape in shapes})


def test_shapes_are_those_of_the_convolutions(net: nn.Module) -> None:
    shapes = conv_shapes(net, IMGSZ)
    convs = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert shapes.keys() == convs.keys()
    for name, shape in shapes.items():
        outputs, inputs, kernel, _ = convs[name].weight.shape
        assert (shape.inputs, shape.outputs, shape.geometry.kernel) == (inputs, outputs, kernel)
        assert shape.geometry.stride == convs[name].stride[0]
    first, last = shapes["model.0.conv"].geometry, shapes["model.22.cv3.0.2"].geometry
    assert (first.height, first.width, first.silu) == (IMGSZ, IMGSZ, True)
    assert (last.height, last.silu) == (IMGSZ // 8, False)
    assert first == replace(first, groups=1)


def test_depthwise_and_grouped_convolutions_are_told_apart() -> None:
    convs = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 3, groups=2)]
    shapes = conv_shapes(nn.Sequential(*convs), 32)
    found = [(shape.geometry.groups, shape.inputs, shape.outputs) for shape in shapes.values()]
    assert found == [(1, 3, 8), (DEPTHWISE, 1, 8), (2, 4, 4)]


@given(st.floats(0, 0.9))
def test_the_rest_has_its_share_of_the_whole(rest: float) -> None:
    shapes = conv_shapes(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 1)), 32)
    cost = latency_cost(shapes, table_of(list(shapes.values())), rest)
    total = sum(cost.of(name, shape.inputs, shape.outputs) for name, shape in shapes.items())
    assert cost.fixed / (cost.fixed + total) == pytest.approx(rest)
    assert cost.of("1", 16, 16) < cost.of("1", 16, 32)
    assert cost.of("transposed", 16, 16) == 0


def ask(share: float) -> float:
    """A plan whose model is nothing but the share that was asked for."""
    assert 0 < share < 1
    return share


@given(st.floats(0.2, 0.9), st.floats(0.0, 0.35), st.floats(0.6, 1.4))
def test_a_table_that_is_wrong_in_scale_and_offset_still_meets_the_target(
    target: float, offset: float, slope: float
) -> None:
    def measure(asked: float) -> float:
        return offset + (1 - offset) * asked**slope

    if measure(0.05) > target:
        return  # out of reach
    reached = reach_share(target, ask, measure)
    misses = [abs(share / target - 1) for _, share in reached.trials]
    assert reached.share == measure(reached.model)
    assert abs(reached.share / target - 1) == min(misses)
    assert len(misses) <= 4
    assert misses[-1] <= TOLERANCE or len(misses) == 4
    assert min(misses) <= 0.15
    assert all(miss > TOLERANCE for miss in misses[:-1])  # it ends where it is good enough


def test_of_noisy_rounds_the_best_is_kept() -> None:
    shares = iter([0.8, 0.6, 0.3, 0.7])
    reached = reach_share(0.5, ask, lambda _: next(shares))
    assert reached.share == 0.6
    assert [share for _, share in reached.trials] == [0.8, 0.6, 0.3, 0.7]
    assert reached.model == reached.trials[1][0]


def test_what_cannot_be_planned_later_ends_the_search_and_at_first_is_a_fault() -> None:
    def plan(asked: float) -> float:
        if asked < 0.45:
            raise CompressError("out of reach")
        return asked

    reached = reach_share(0.5, plan, lambda asked: asked + 0.2)
    assert reached.trials == ((0.5, 0.7),)
    with pytest.raises(CompressError, match="out of reach"):
        reach_share(0.4, plan, float)


def test_measuring_leaves_the_model_as_it_was(net: nn.Module) -> None:
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    conv_shapes(net, IMGSZ)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
