"""Upsampling of integers as copies of pixels: the same values, and only where it is that."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.upsampling import copy_pixels

PLACES = ("asymmetric", "half_pixel")
ROUNDING = {"asymmetric": "floor", "half_pixel": "round_prefer_floor"}


def net(
    shape: tuple[Any, ...] = (1, 3, 4, 5),
    scales: tuple[float, ...] = (1, 1, 2, 2),
    places: str = "asymmetric",
    zero_points: tuple[int, int] = (7, 7),
    **resize: str,
) -> onnx.ModelProto:
    """Q -> DQ -> Resize -> Q -> DQ."""
    settings = {"mode": "nearest", "nearest_mode": ROUNDING[places], **resize}
    stored = {
        "scale": np.array(0.02, np.float32),
        "zero": np.array(zero_points[0], np.uint8),
        "other_zero": np.array(zero_points[1], np.uint8),
        "scales": np.array(scales, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_quantized"]),
        helper.make_node("DequantizeLinear", ["x_quantized", "scale", "zero"], ["x_float"]),
        helper.make_node(
            "Resize",
            ["x_float", "", "scales"],
            ["y"],
            "/up/Resize",
            coordinate_transformation_mode=places,
            **settings,
        ),
        helper.make_node("QuantizeLinear", ["y", "scale", "other_zero"], ["y_quantized"]),
        helper.make_node("DequantizeLinear", ["y_quantized", "scale", "other_zero"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy_pixels(copy)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def output(model: onnx.ModelProto, shape: tuple[int, ...]) -> Any:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": values})[0]


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
    st.integers(2, 4),
    st.sampled_from(PLACES),
)
def test_every_value_is_the_same(shape: tuple[int, int, int, int], scale: int, places: str) -> None:
    before = net(shape, (1, 1, scale, scale), places)
    after = rewritten(before)
    assert "Resize" not in kinds(after)
    assert np.array_equal(output(before, shape), output(after, shape))


def test_scales_may_come_from_a_constant_operator() -> None:
    model = net()
    [scales] = [tensor for tensor in model.graph.initializer if tensor.name == "scales"]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["scales"], value=scales))
    model.graph.initializer.remove(scales)
    after = rewritten(model)
    assert "Resize" not in kinds(after)
    assert "Constant" not in kinds(after)


def test_what_nobody_reads_any_more_is_gone() -> None:
    graph = rewritten(net()).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
    assert {name for node in graph.node for name in node.output} - {"out"} <= read


def test_the_quantized_tensor_keeps_its_name_and_the_operators_their_module() -> None:
    after = rewritten(net())
    assert "y_quantized" in {name for node in after.graph.node for name in node.output}
    added = [node.name for node in after.graph.node if node.op_type in ("Concat", "Reshape")]
    assert len(added) == 4
    assert all(name.startswith("/up/Resize/") for name in added)


@pytest.mark.parametrize(
    "other",
    [
        net(scales=(1, 1, 1.5, 1.5)),
        net(scales=(1, 1, 2, 3)),
        net(scales=(1, 1, 1, 1)),
        net(scales=(1, 2, 2, 2)),
        net(mode="linear"),
        net(nearest_mode="ceil"),
        net(zero_points=(7, 8)),
        net(shape=("batch", 3, 4, 5)),
    ],
    ids=["half", "uneven", "none", "channels", "linear", "ceil", "grid", "open"],
)
def test_what_is_no_copy_stays(other: onnx.ModelProto) -> None:
    assert rewritten(other).SerializeToString() == other.SerializeToString()


def test_a_tensor_that_is_read_in_float_too_stays() -> None:
    model = net()
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))
    assert rewritten(model).SerializeToString() == model.SerializeToString()
