"""Fill the head's outputs up to a channel multiple, and cut the filling off again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.qdq import Array

_READERS = frozenset({"Conv", "ConvTranspose", "Gemm"})
# value by value: may run on the filling too, so that they stay one with their convolution
_ELEMENTWISE = frozenset({"Sigmoid", "Mul", "Relu", "LeakyRelu", "Identity"})
_FIXED = ".dfl.conv.weight"  # the expectation over box bins: no feature map, never cut
_CHANNEL_AXIS = 1


def pad_file(path: Path, multiple: int) -> None:
    """Write the float ONNX file anew with padded outputs; see ``pad_outputs``."""
    onnx.save(pad_outputs(onnx.load(str(path)), multiple), str(path))


def pad_outputs(model: onnx.ModelProto, multiple: int) -> onnx.ModelProto:
    """A copy in which every last convolution has a multiple of output channels.

    Last are those whose values reach no other convolution: classes, boxes, masks, keypoints. They
    get filters of zeros, and a Slice behind them and their activation gives what was there before.
    Tensors keep their names, so that ranges fit the padded graph as they do the plain one.

    Args:
        model: float ONNX as ``export_float`` writes it.
        multiple: of channels, >= 1.
    """
    padded = onnx.ModelProto()
    padded.CopyFrom(model)
    graph = padded.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    wide: dict[str, int] = {}  # tensor with filling -> channels without
    for conv in _last_convs(graph, weights.keys()):
        channels = weights[conv.input[1]].shape[0]
        filling = -channels % multiple
        if filling:
            wide[conv.output[0]] = channels
            weights |= {name: _filled(weights[name], filling) for name in conv.input[1:]}
    for node in graph.node:
        if node.op_type in _ELEMENTWISE and all(name in wide for name in node.input):
            wide[node.output[0]] = wide[node.input[0]]
    _replace_weights(graph, weights)
    _cut_for_readers(graph, wide)
    del graph.value_info[:]
    onnx.checker.check_model(padded)
    return padded


def _last_convs(graph: onnx.GraphProto, weights: Iterable[str]) -> list[onnx.NodeProto]:
    """Convolutions with stored weights whose output reaches no other."""
    stored = set(weights)
    read: set[str] = set()
    last = []
    for node in reversed(graph.node):
        fixed = any(name.endswith(_FIXED) for name in node.input)
        reads = node.op_type in _READERS and not fixed
        is_last = reads and read.isdisjoint(node.output)
        if is_last and node.op_type == "Conv" and stored.issuperset(node.input[1:]):
            last.append(node)
        if reads or not read.isdisjoint(node.output):
            read.update(node.input)
    return last


def _filled(values: Array, filling: int) -> Array:
    """``values`` with zeros behind the last output channel."""
    return np.pad(values, [(0, filling)] + [(0, 0)] * (values.ndim - 1))


def _replace_weights(graph: onnx.GraphProto, weights: Mapping[str, Array]) -> None:
    for tensor in graph.initializer:
        values = weights[tensor.name]
        if tuple(tensor.dims) != values.shape:
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _cut_for_readers(graph: onnx.GraphProto, wide: Mapping[str, int]) -> None:
    """Let whoever cannot read filling read what a Slice leaves of it."""
    outputs = {entry.name for entry in graph.output}
    # the file's outputs keep their names, and so do the tensors inside
    inner = {name: f"{name}_wide" if name in outputs else name for name in wide}
    cut = {name: name if name in outputs else f"{name}_cut" for name in wide}
    read = outputs & wide.keys()
    for node in graph.node:
        keeps_filling = node.output[0] in wide
        for index, name in enumerate(node.input):
            if name in wide and not keeps_filling:
                read.add(name)
            if name in wide:
                node.input[index] = inner[name] if keeps_filling else cut[name]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        name = node.output[0]
        if name in wide:
            node.output[0] = inner[name]
        if name in read:
            nodes.append(_slice(graph, inner[name], cut[name], wide[name]))
    del graph.node[:]
    graph.node.extend(nodes)


def _slice(graph: onnx.GraphProto, source: str, target: str, channels: int) -> onnx.NodeProto:
    bounds = {"starts": 0, "ends": channels, "axes": _CHANNEL_AXIS}
    names = [f"{target}_{bound}" for bound in bounds]
    for name, value in zip(names, bounds.values(), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    return helper.make_node("Slice", [source, *names], [target], f"{target}_slice")
