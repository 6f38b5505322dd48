"""One float graph and one ranges file, written as each runtime wants to read INT8."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from export.errors import ExportError
from export.placement import conv_names
from export.qdq import GraphEditor
from export.ranges import GroupRange, Ranges


def write_dialect(target: str, float_onnx: Path, ranges: Ranges, output: Path) -> None:
    """Write the INT8 ONNX of ``target`` (``onnxruntime`` or ``tensorrt``).

    Raises:
        ExportError: if the ranges belong to another graph, or the float file cannot be read.
    """
    try:
        model = onnx.load(str(float_onnx))
    except Exception as error:  # protobuf raises kinds of its own
        raise ExportError(f"{float_onnx}: not a readable ONNX file. Export it again.") from error
    _check(model, ranges, float_onnx)
    onnx.save(_WRITERS[target](model, ranges), str(output))


def _check(model: onnx.ModelProto, ranges: Ranges, path: Path) -> None:
    nodes = model.graph.node
    known = {name for node in nodes for name in [*node.input, *node.output]}
    ranged = ranges.by_tensor().keys()
    unknown = sorted(ranged - known) + sorted(set(ranges.convs) - set(conv_names(model)))
    if unknown:
        raise ExportError(
            f"{path}: the ranges file names '{unknown[0]}' ({len(unknown)} names in all), which "
            "this graph does not have: the ranges belong to another model."
        )
    bare = sorted({n.input[0] for n in nodes if _module(n) in ranges.convs} - ranged)
    if bare:
        raise ExportError(
            f"{path}: the ranges file has nothing for '{bare[0]}' ({len(bare)} tensors in all): it "
            "is incomplete or belongs to another model. Run the ptq or qat stage again."
        )


def onnxruntime_dialect(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """Q/DQ behind every quantized tensor, u8 activations, s8 weights, int32 bias.

    ONNX Runtime's CPU kernels run a convolution in INT8 only if its output is quantized too, before
    the activation; movers (Concat, Resize ...) need equal scales on both sides.
    """
    editor = GraphEditor(model)
    by_tensor = ranges.by_tensor()
    renamed = {
        tensor: editor.quantized_tensor(tensor, group.scale, group.zero_point, np.uint8)
        for tensor, group in by_tensor.items()
    }
    for node in editor.nodes:
        if _module(node) in ranges.convs:
            if len(node.input) > 2:
                scale = by_tensor[node.input[0]].scale
                node.input[1:] = editor.quantized_filter(node.input[1], node.input[2], scale)
            else:
                node.input[1] = editor.quantized_weight(node.input[1])
        _rename_inputs(node, renamed)
    return editor.finish()


def tensorrt_dialect(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """Q/DQ at the inputs and weights of convolutions only, s8 symmetric, float bias.

    TensorRT fuses convolution, bias and activation itself and breaks that fusion at any Q/DQ in
    between. It reads only symmetric scales: the larger end of a range decides.
    """
    editor = GraphEditor(model)
    by_tensor = ranges.by_tensor()
    renamed: dict[str, str] = {}
    for node in editor.nodes:
        if _module(node) not in ranges.convs:
            continue
        tensor = node.input[0]
        if tensor not in renamed:
            scale = _symmetric_scale(by_tensor[tensor])
            renamed[tensor] = editor.quantized_tensor(tensor, scale, 0, np.int8)
        node.input[0], node.input[1] = renamed[tensor], editor.quantized_weight(node.input[1])
    return editor.finish()


def _module(node: onnx.NodeProto) -> str | None:
    if node.op_type != "Conv":
        return None
    return str(node.input[1]).removesuffix(".weight")


def _rename_inputs(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    for index, name in enumerate(node.input):
        node.input[index] = renamed.get(name, name)


def _symmetric_scale(group: GroupRange) -> float:
    return max(-group.low, group.high) / 127


_WRITERS: dict[str, Callable[[onnx.ModelProto, Ranges], onnx.ModelProto]] = {
    "onnxruntime": onnxruntime_dialect,
    "tensorrt": tensorrt_dialect,
}
