"""Which operators of a file read quantized tensors, and which convolutions stayed float."""

from __future__ import annotations

from pathlib import Path

import onnx

from export.errors import ExportError
from export.graph_view import block_name, scope_of


def reading_int8(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of the operators whose data, and a convolution's weights, are dequantized integers."""
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return frozenset(
        str(node.name)
        for node in graph.node
        if node.input and dequantized.issuperset(node.input[: 2 if node.op_type == "Conv" else 1])
    )


def float_convs(path: Path) -> list[str]:
    """Modules of the convolutions that compute in float, in the file's order.

    Raises:
        ExportError: the file cannot be read.
    """
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf raises kinds of its own
        raise ExportError(f"{path}: not a readable ONNX file. Export it again.") from error
    int8 = reading_int8(graph)
    convs = [node for node in graph.node if node.op_type == "Conv" and node.name not in int8]
    return [block_name(scope_of(node)) for node in convs]
