"""Where a float graph is quantized: points, groups of tensors that share a scale, convolutions.

Read off the ONNX graph, so that training simulates exactly what the exported file executes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from export.errors import ExportError
from export.patterns import matching

# operators that move values without changing them: their inputs and outputs share one scale
_MOVING = frozenset({"Concat", "MaxPool", "Resize", "Split"})
# operators that ONNX Runtime computes in INT8 when inputs and outputs are quantized
_COMPUTING = frozenset({"Sigmoid", "Mul", "Add", "Relu"})


@dataclass(frozen=True)
class Point:
    """A tensor whose values are computed (not only moved) and then rounded to INT8.

    ``module`` is the PyTorch module that computes it, ``operator`` the ONNX operator.
    """

    tensor: str
    operator: str
    module: str


@dataclass(frozen=True)
class QuantizationGroup:
    """Tensors that share one scale. ``points`` are the ones that are computed."""

    name: str
    points: tuple[Point, ...]
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """All of a graph's groups, and the modules whose convolution is INT8."""

    groups: tuple[QuantizationGroup, ...]
    convs: tuple[str, ...]


class _Groups:
    """Union-find over tensor names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, tensor: str) -> str:
        parent = self._parent.setdefault(tensor, tensor)
        while parent != self._parent[parent]:
            parent = self._parent[parent]
        self._parent[tensor] = parent
        return parent

    def join(self, tensors: Sequence[str]) -> None:
        for tensor in tensors[1:]:
            self._parent[self.find(tensor)] = self.find(tensors[0])


def find_placement(model: onnx.ModelProto, float_layers: Sequence[str]) -> Placement:
    """Quantize every convolution but ``float_layers``, and all that INT8 values reach from there.

    Args:
        model: float ONNX as ``export_float`` writes it.
        float_layers: patterns of module names whose convolutions stay float.

    Raises:
        ExportError: if a pattern matches no convolution.
    """
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    convs = _conv_modules(graph, initializers)
    kept_float = _matching(set(convs.values()), float_layers)
    int8 = {node: name for node, name in convs.items() if name not in kept_float}
    needed = _needed(graph, initializers, int8)
    quantized: dict[str, None] = {}  # an ordered set
    groups = _Groups()
    for node in graph.node:
        inputs = _data_inputs(node, initializers)
        if node.op_type == "Conv":
            if node.name in int8:
                quantized.update({inputs[0]: None, node.output[0]: None})
            continue
        known = node.op_type in _MOVING | _COMPUTING and bool(inputs)
        if known and all(tensor in quantized or tensor in needed for tensor in inputs):
            quantized.update(dict.fromkeys([*inputs, *node.output]))
            if node.op_type in _MOVING:
                groups.join([*inputs, *node.output])
    return Placement(_describe(graph, convs, quantized, groups), tuple(int8.values()))


def _needed(graph: onnx.GraphProto, initializers: set[str], int8: Mapping[str, str]) -> set[str]:
    """Tensors that an INT8 convolution reads, back to where they are computed.

    Values are rounded there, not at a Concat or Split in between, which no module stands for.
    """
    needed: set[str] = set()
    for node in reversed(graph.node):
        moves = node.op_type in _MOVING and not needed.isdisjoint(node.output)
        if moves or node.name in int8:
            needed.update(_data_inputs(node, initializers))
    return needed


def conv_names(model: onnx.ModelProto) -> list[str]:
    """Module names of all convolutions of a float graph, in the graph's order."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return list(_conv_modules(model.graph, initializers).values())


def _conv_modules(graph: onnx.GraphProto, initializers: set[str]) -> dict[str, str]:
    """Node name -> module name of every convolution with a weight of its own."""
    return {
        node.name: node.input[1].removesuffix(".weight")
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in initializers
    }


def _matching(names: set[str], patterns: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        matched = matching(names, pattern)
        if not matched:
            raise ExportError(
                f"float_layers: '{pattern}' matches no convolution. Names look like "
                f"{', '.join(sorted(names)[:3])}; '*' matches any text."
            )
        found.update(matched)
    return found


def _data_inputs(node: onnx.NodeProto, initializers: set[str]) -> list[str]:
    """Inputs that carry activations: not weights, and not shapes, sizes or axes."""
    inputs = [name for name in node.input if name and name not in initializers]
    return inputs[:1] if node.op_type in {"Resize", "Split", "MaxPool", "Conv"} else inputs


def _describe(
    graph: onnx.GraphProto, convs: dict[str, str], quantized: dict[str, None], groups: _Groups
) -> tuple[QuantizationGroup, ...]:
    producers = {tensor: node for node in graph.node for tensor in node.output}
    conv_of = {node.output[0]: convs[node.name] for node in graph.node if node.name in convs}
    members: dict[str, list[str]] = {}
    for tensor in quantized:
        members.setdefault(groups.find(tensor), []).append(tensor)
    described = []
    for tensors in members.values():
        points = tuple(
            _point(tensor, producers.get(tensor), conv_of)
            for tensor in tensors
            if tensor not in producers or producers[tensor].op_type not in _MOVING
        )
        described.append(QuantizationGroup(tensors[0], points, tuple(tensors)))
    _require_outputs(graph, [point for group in described for point in group.points], conv_of)
    return tuple(described)


def _require_outputs(
    graph: onnx.GraphProto, points: Sequence[Point], conv_of: Mapping[str, str]
) -> None:
    """Refuse points in the middle of a module: PyTorch could round only what it gives out."""
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, set()).add(f"{_scope(node.name)}.")
    blocks = {name.removesuffix(".conv") for name in conv_of.values()}
    inner = {
        point.module
        for point in points
        if point.module and point.module not in blocks
        if any(reader.startswith(f"{point.module}.") for reader in readers.get(point.tensor, ()))
    }
    if inner:
        raise ExportError(
            "quantize: inside of these modules a convolution reads what no module gives out, which "
            "cannot be simulated yet. Leave them in float: "
            f"`float_layers: [{', '.join(sorted(inner))}]`"
        )


def _point(tensor: str, node: onnx.NodeProto | None, conv_of: dict[str, str]) -> Point:
    if node is None:
        return Point(tensor, "Input", "")
    if node.op_type == "Conv":
        return Point(tensor, "Conv", conv_of[tensor].removesuffix(".conv"))
    scope = _scope(node.name)
    for source in node.input:  # an activation belongs to the block of the convolution before it
        block = conv_of.get(source, "").removesuffix(".conv")
        if block and scope.startswith(f"{block}."):
            return Point(tensor, node.op_type, block)
    return Point(tensor, node.op_type, scope)


def _scope(node_name: str) -> str:
    """``/model.22/cv2.1/cv2.1.1/act/Mul`` -> ``model.22.cv2.1.1.act``."""
    path: list[str] = []
    for part in node_name.split("/")[1:-1]:
        if path and part.startswith(path[-1] + "."):
            path[-1] = part  # a container's child repeats its parent's name
        else:
            path.append(part)
    return ".".join(path)
