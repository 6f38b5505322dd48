"""The operators of an ONNX file, with the channels of its convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.alignment.graph import Node, Role
from bench.errors import BenchError
from bench.onnx_file import load_onnx

# Where an operator's weights stand among its inputs; its data stands at 0.
_WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
_ROLES: Mapping[str, Role] = {
    **{kind: "conv" for kind in _WEIGHT_INPUT},
    # what else reads channels, at the end of a classifier
    **{kind: "dense" for kind in ("Gemm", "QGemm")},
    **{kind: "softmax" for kind in ("Softmax", "QLinearSoftmax")},
}
_SHAPE_KEEPING = {"DequantizeLinear", "QuantizeLinear", "Cast", "Identity"}


def onnx_nodes(path: Path) -> list[Node]:
    """The operators in graph order.

    Raises:
        BenchError: the file cannot be read, is no valid graph, or computes a convolution's weights
            while it runs.
    """
    graph = load_onnx(path).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    try:
        return [_node(node, weights, producers, path) for node in graph.node]
    except IndexError as error:  # an operator without what every such operator has
        raise BenchError(f"'{path}' is no valid ONNX graph: export it again.") from error


def _node(
    node: Any, weights: Mapping[str, tuple[int, ...]], producers: Mapping[str, Any], path: Path
) -> Node:
    role = _ROLES.get(node.op_type, "other")
    channels = (0, 0)
    if role == "conv":
        channels = _channels(node, _weight_shape(node, weights, producers, path))
    name = node.name or (node.output[0] if node.output else "")
    inputs = tuple(tensor for tensor in node.input if tensor)
    return Node(name, role, inputs, tuple(node.output), channels)


def _channels(node: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Input and output channels of the whole tensors, all groups together."""
    groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
    if node.op_type == "ConvTranspose":
        return shape[0], shape[1] * groups
    return shape[1] * groups, shape[0]


def _weight_shape(
    node: Any, weights: Mapping[str, tuple[int, ...]], producers: Mapping[str, Any], path: Path
) -> tuple[int, ...]:
    name = node.input[_WEIGHT_INPUT[node.op_type]]
    while name not in weights:
        producer = producers.get(name)
        if producer is not None and producer.op_type == "Constant":
            return tuple(producer.attribute[0].t.dims)
        if producer is None or producer.op_type not in _SHAPE_KEEPING:
            raise BenchError(
                f"'{path}': the weights of '{node.name or node.output[0]}' are computed while the "
                "net runs, so its channels cannot be read. Export with constant folding on."
            )
        name = producer.input[0]
    return weights[name]
