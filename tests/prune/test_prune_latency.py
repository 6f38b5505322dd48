"""Time as a cost of channels, and the search for a share that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow import slow
from small_nets import IMGSZ
from structure_nets import family_net
from torch import nn
from ultralytics.nn.modules import RepConv
from ultralytics.nn.modules.block import RepVGGDW

from bench.conv_times.graph import DEPTHWISE, Geometry
from bench.conv_times.table import ConvShape, Grid, LayerTable
from bench.profile.layer_times import layer_of
from compress.errors import CompressError
from compress.models.exportable import exportable
from compress.prune.cost import conv_channels
from compress.prune.latency import TOLERANCE, exported_convs, latency_cost, reach_share
from export.float_onnx import export_float


def table_of(shapes: list[ConvShape]) -> LayerTable:
    """Times in proportion to inputs x outputs."""
    ends = (16, 512)
    grid = Grid(ends, ends, tuple(tuple(float(i * o) for o in ends) for i in ends))
    return LayerTable("", None, 1, 1, {shape.geometry: grid for shape in shapes})


@pytest.mark.parametrize("family", ["yolov8n-seg", "yolo26n", *slow("yolov9t", "yolov10n")])
def test_every_exported_convolution_has_one_name_that_the_solver_knows(
    family: str, tmp_path: Path
) -> None:
    net = family_net(family, torch.rand(1, 3, IMGSZ, IMGSZ))
    convs = exported_convs(net, IMGSZ)
    assert convs.keys() <= conv_channels(net).keys()
    export_float(exportable(net), IMGSZ, tmp_path / "net.onnx")
    graph = onnx.load(str(tmp_path / "net.onnx")).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    nodes = {
        layer_of(node.name): (weights[node.input[1]], attributes(node))
        for node in graph.node
        if node.op_type == "Conv"
    }
    assert len(nodes) == sum(node.op_type == "Conv" for node in graph.node)
    assert sorted(conv.layer for conv in convs.values()) == sorted(nodes)
    for conv in convs.values():
        (outputs, inputs, kernel, _), found = nodes[conv.layer]
        shape = conv.shape
        assert (shape.inputs, shape.outputs, shape.geometry.kernel) == (inputs, outputs, kernel)
        assert shape.geometry.stride == found["strides"][0]
        depthwise = found["group"] > 1 and inputs == 1
        assert shape.geometry.groups == (DEPTHWISE if depthwise else found["group"])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


@pytest.mark.parametrize(
    ("family", "block", "kept", "gone"),
    [
        ("yolov9t", RepConv, "conv1.conv", "conv2.conv"),
        ("yolov10n", RepVGGDW, "conv.conv", "conv1.conv"),
    ],
)
def test_folded_branches_stand_under_the_widest(
    family: str, block: type[nn.Module], kept: str, gone: str
) -> None:
    net = family_net(family, torch.rand(1, 3, IMGSZ, IMGSZ))
    modules = dict(net.named_modules())
    blocks = [name for name, module in modules.items() if isinstance(module, block)]
    convs = exported_convs(net, IMGSZ)
    assert blocks
    for name in blocks:
        assert f"{name}.{gone}" in modules
        assert f"{name}.{gone}" not in convs
        found = convs[f"{name}.{kept}"]
        assert found.layer == name
        assert found.shape.geometry.kernel == modules[f"{name}.{kept}"].kernel_size[0]
        assert found.shape.geometry.silu


def test_geometries_are_those_of_the_inputs(net: nn.Module) -> None:
    convs = exported_convs(net, IMGSZ)
    first, last = (convs[n].shape.geometry for n in ("model.0.conv", "model.22.cv3.0.2"))
    assert (first.height, first.width, first.silu) == (IMGSZ, IMGSZ, True)
    assert (last.height, last.silu) == (IMGSZ // 8, False)


def shape_of(inputs: int, outputs: int, kernel: int) -> ConvShape:
    return ConvShape(Geometry(kernel, 1, 1, 8, 8, silu=True), inputs, outputs)


@given(st.floats(0, 0.9))
def test_the_rest_has_its_share_of_the_whole(rest: float) -> None:
    shapes = {"0": shape_of(3, 16, 3), "1": shape_of(16, 32, 1)}
    cost = latency_cost(shapes, table_of(list(shapes.values())), rest)
    total = sum(cost.of(name, shape.inputs, shape.outputs) for name, shape in shapes.items())
    assert cost.fixed / (cost.fixed + total) == pytest.approx(rest)
    assert cost.of("1", 16, 16) < cost.of("1", 16, 32)
    assert cost.of("not exported", 16, 16) == 0


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
    exported_convs(net, IMGSZ)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
