"""One float graph and one ranges file, written as each runtime wants to read INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from export.errors import ExportError
from export.graph_view import GraphView
from export.placement import Placement, find_placement
from export.qdq import GraphEditor
from export.ranges import SYMMETRIC_ZERO, GroupRange, Ranges
from export.upsampling import copy_pixels


@dataclass(frozen=True)
class Dialect:
    """How a runtime wants Q/DQ.

    ``signed``: activations are s8 around 0. ``int32_bias``: else the bias is float.
    ``copied_pixels``: upsampling is written as copies. ``rounds_moved``: what is only moved
    (Concat, Split, ...) gets Q/DQ of its own again, which changes no value.
    """

    signed: bool
    int32_bias: bool
    copied_pixels: bool = False
    rounds_moved: bool = True


DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        # its CPU kernels want unsigned activations and an integer bias
        "onnxruntime": Dialect(signed=False, int32_bias=True, copied_pixels=True),
        # reads no zero points, and adds the bias before it rounds
        "tensorrt": Dialect(signed=True, int32_bias=False),
        # computes a Concat between pairs of Q/DQ in float
        "openvino": Dialect(signed=False, int32_bias=False, rounds_moved=False),
    }
)


def write_dialect(target: str, float_onnx: Path, ranges: Ranges, output: Path) -> None:
    """Write the INT8 ONNX of ``target`` (one of ``DIALECTS``).

    Raises:
        ExportError: if the ranges belong to another graph, or the float file cannot be read.
    """
    model = read_float(float_onnx)
    placement = target_placement(model, ranges, target, float_onnx)
    read = as_read_by(target, ranges, placement)
    written = _written(model, placement, read, DIALECTS[target])
    if DIALECTS[target].copied_pixels:
        copy_pixels(written)
    onnx.save(written, str(output))


def read_float(path: Path) -> onnx.ModelProto:
    """The graph in ``path``.

    Raises:
        ExportError: if it is no readable ONNX file.
    """
    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf raises kinds of its own
        raise ExportError(f"{path}: not a readable ONNX file. Export it again.") from error


def target_placement(model: onnx.ModelProto, ranges: Ranges, target: str, path: Path) -> Placement:
    """Where ``target`` rounds, with these ranges' convolutions in INT8.

    Raises:
        ExportError: if the ranges (of the graph in ``path``) belong to another model.
    """
    known = set(GraphView(model).conv_names)
    tensors = {name for node in model.graph.node for name in [*node.input, *node.output]}
    ranged = ranges.by_tensor().keys()
    unknown = sorted(ranged - tensors) + sorted(set(ranges.convs) - known)
    if unknown:
        raise ExportError(
            f"{path}: the ranges file names '{unknown[0]}' ({len(unknown)} names in all), which "
            "this graph does not have: the ranges belong to another model."
        )
    placement = find_placement(model, sorted(known - set(ranges.convs)), [target])
    needed = {tensor for group in placement.groups for tensor in group.tensors}
    bare = sorted(needed - ranged)
    if bare:
        raise ExportError(
            f"{path}: the ranges file has nothing for '{bare[0]}' ({len(bare)} tensors in all): "
            f"it is incomplete, belongs to another model, or was not made for {target}. List "
            f"{target} under the quantization's `target:` and run the ptq or qat stage again."
        )
    widths = {t.name.removesuffix(".weight"): t.dims[0] for t in model.graph.initializer if t.dims}
    for conv, scales in ranges.weight_scales.items():
        if len(scales) != widths.get(conv):
            raise ExportError(
                f"{path}: the ranges file has {len(scales)} weight scales for '{conv}', which has "
                f"{widths.get(conv)} output channels: the ranges belong to another model, or "
                "`pad_outputs` widened a convolution that is INT8 (leave `quantize_head` out)."
            )
    return placement


def as_read_by(target: str, ranges: Ranges, placement: Placement) -> Ranges:
    """The ranges that ``target`` makes of these, for its ``placement``.

    TensorRT knows no zero points. ONNX Runtime makes a ReLU part of its convolution only if the
    zero point is the smallest integer; where the range was made to be around 0 for another target,
    the upper half of the grid is taken, which only clips less.
    """
    by_tensor = ranges.by_tensor()
    groups = []
    for group in placement.groups:
        found = by_tensor[group.tensors[0]]
        if target == "tensorrt":
            found = found.around_zero()
        elif target == "onnxruntime" and group.activated:
            found = found.from_zero()
        groups.append(replace(found, tensors=group.tensors))
    return replace(ranges, groups=tuple(groups))


def _written(
    model: onnx.ModelProto, placement: Placement, ranges: Ranges, dialect: Dialect
) -> onnx.ModelProto:
    editor = GraphEditor(model)
    view = GraphView(model)
    by_tensor = ranges.by_tensor()
    for_all: dict[str, str] = {}  # tensor -> what its readers read in place of it
    for_convs: dict[str, str] = {}
    for group in placement.groups:
        renamed = for_convs if group.for_readers else for_all
        computed = dict.fromkeys(point.tensor for point in group.points)
        for tensor in group.tensors if dialect.rounds_moved else computed:
            renamed[tensor] = _rounded(editor, tensor, by_tensor[tensor], dialect)
    for node in editor.nodes:
        conv = view.conv(node)
        if conv in ranges.convs and conv is not None:
            _quantize_conv(editor, node, conv, by_tensor[node.input[0]], ranges, dialect)
            node.input[0] = for_convs.get(node.input[0], node.input[0])
        for index, name in enumerate(node.input):
            node.input[index] = for_all.get(name, name)
    return editor.finish()


def _rounded(editor: GraphEditor, tensor: str, group: GroupRange, dialect: Dialect) -> str:
    if dialect.signed:
        zero_point = group.zero_point - SYMMETRIC_ZERO
        return editor.quantized_tensor(tensor, group.scale, zero_point, np.int8)
    return editor.quantized_tensor(tensor, group.scale, group.zero_point, np.uint8)


def _quantize_conv(
    editor: GraphEditor,
    node: onnx.NodeProto,
    conv: str,
    read: GroupRange,
    ranges: Ranges,
    dialect: Dialect,
) -> None:
    scales = ranges.weight_scales.get(conv)
    if dialect.int32_bias and len(node.input) > 2:
        node.input[1:] = editor.quantized_filter(
            node.input[1], node.input[2], read.scale, ranges.weight_max, scales
        )
    else:
        node.input[1] = editor.quantized_weight(node.input[1], ranges.weight_max, scales)
