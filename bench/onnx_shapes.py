"""Shapes of all tensors of an ONNX graph whose input has a fixed size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEW = 64  # elements; sizes and axes have fewer
_DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,  # sizes are not negative
    "Gather": np.take,  # of a list of sizes
    # between one number and a list of it
    "Squeeze": lambda value, *axes: np.reshape(value, ()),
    "Unsqueeze": lambda value, *axes: np.reshape(value, (1,)),
    "Concat": lambda *parts: np.concatenate(parts),
}


def infer_shapes(onnx: Any, model: Any) -> Any:
    """The graph of ``model`` with the shapes of its tensors, as far as they can be known.

    onnx's own inference does not divide, and exporters do where they halve channels. So integers
    that follow from shapes are computed in between, until nothing new comes out of it; their
    operators become constants. ``model`` is changed, and loses the values of its weights.

    Raises:
        Exception: the graph is not valid; onnx raises several kinds, with no base of their own.
    """
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _FEW:
            for field in _DATA_FIELDS:
                tensor.ClearField(field)
    while True:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        if not _fold(onnx, model.graph, fixed_shapes(graph)):
            return graph


def fixed_shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Tensor -> sizes, of those whose sizes are all known."""
    shapes = {}
    for info in (*graph.input, *graph.output, *graph.value_info):
        kind = info.type.tensor_type
        if kind.HasField("shape") and all(size.dim_value > 0 for size in kind.shape.dim):
            shapes[info.name] = tuple(size.dim_value for size in kind.shape.dim)
    return shapes


def _fold(onnx: Any, graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Turn operators whose integers are known into constants; whether there were any."""
    values = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64 and math.prod(tensor.dims) <= _FEW
    }
    folded = False
    for node in graph.node:
        if node.op_type == "Constant":
            for entry in node.attribute:
                if entry.t.data_type == onnx.TensorProto.INT64 and math.prod(entry.t.dims) <= _FEW:
                    values[node.output[0]] = onnx.numpy_helper.to_array(entry.t)
            continue
        result = _value(node, values, shapes)
        if result is not None:
            values[node.output[0]] = result
            tensor = onnx.numpy_helper.from_array(result)
            constant = onnx.helper.make_node("Constant", [], list(node.output), value=tensor)
            constant.name = node.name
            node.CopyFrom(constant)
            folded = True
    return folded


def _value(
    node: Any, values: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]
) -> NDArray[Any] | None:
    if node.op_type == "Shape" and node.input[0] in shapes and not node.attribute:
        return np.array(shapes[node.input[0]], np.int64)
    known = [values[name] for name in node.input if name in values]
    if node.op_type not in _ARITHMETIC or len(known) < len(node.input):
        return None
    if node.op_type == "Gather" and known[0].ndim != 1:
        return None
    try:
        with np.errstate(divide="ignore"):
            return np.asarray(_ARITHMETIC[node.op_type](*known), np.int64)
    except (IndexError, ValueError):
        return None  # a damaged graph: onnx says more
