"""Where a float graph is quantized: points, groups of tensors that share a scale, convolutions.

Read off the ONNX graph, so that training simulates exactly what the exported file executes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from export.errors import ExportError
from export.graph_view import GraphView, block_name
from export.patterns import matching_any

# operators that ONNX Runtime computes in INT8 when inputs and outputs are quantized
_COMPUTING = frozenset({"Sigmoid", "Mul", "Add"})
# activations that it makes part of the convolution before them, if nothing is rounded between
_FUSED = frozenset({"Relu", "Clip"})
INPUT, READER = "Input", "Reader"
# never negative where they stand together with such an activation; a sum may be of both
_NEVER_NEGATIVE = _FUSED | {"Add", "Sigmoid", INPUT}


@dataclass(frozen=True)
class Point:
    """A tensor that is computed (not only moved) and then rounded to INT8.

    ``module`` computes it, by the ONNX ``operator``. Of operator ``Input`` (the image) it is empty;
    of ``Reader`` it is a convolution that rounds what it reads, for itself alone.
    """

    tensor: str
    operator: str
    module: str


@dataclass(frozen=True)
class QuantizationGroup:
    """Tensors that share one scale. ``points`` are the ones that are computed.

    ``symmetric``: the integer 0 (of signed ones) must stand for 0.0. ``for_readers``: only the
    convolutions among the readers see rounded values.
    """

    name: str
    points: tuple[Point, ...]
    tensors: tuple[str, ...]
    symmetric: bool = False
    for_readers: bool = False

    @property
    def activated(self) -> bool:
        """Whether its values are behind a ReLU that becomes part of its convolution, so >= 0."""
        operators = {point.operator for point in self.points}
        return bool(operators & _FUSED) and operators <= _NEVER_NEGATIVE


@dataclass(frozen=True)
class Placement:
    """All of a graph's groups, and the modules whose convolution is INT8."""

    groups: tuple[QuantizationGroup, ...]
    convs: tuple[str, ...]


@dataclass
class _Marks:
    """What one runtime rounds: ``tensors`` for all readers, ``inputs`` for convolutions only."""

    tensors: dict[str, None] = field(default_factory=dict)  # an ordered set
    inputs: dict[str, dict[str, None]] = field(default_factory=dict)  # tensor -> their modules


def find_placement(
    model: onnx.ModelProto,
    float_layers: Sequence[str],
    targets: Sequence[str] = ("onnxruntime",),
) -> Placement:
    """Quantize every convolution but ``float_layers``, and what the targets round around them.

    Args:
        model: float ONNX as ``export_float`` writes it.
        float_layers: patterns of module names whose convolutions stay float.
        targets: ``onnxruntime``, ``tensorrt``, ``openvino``; of several, every point of each.

    Raises:
        ExportError: if a pattern matches no convolution.
    """
    view = GraphView(model)
    kept_float = _matching(set(view.conv_names), float_layers)
    int8 = tuple(name for name in view.conv_names if name not in kept_float)
    marks = {target: _MARKERS[target](view, set(int8)) for target in targets}
    return Placement(_groups(view, marks), int8)


def conv_names(model: onnx.ModelProto) -> list[str]:
    """Module names of all convolutions of a float graph, in the graph's order."""
    return GraphView(model).conv_names


def _conv_inputs(view: GraphView, int8: set[str]) -> _Marks:
    """Round what INT8 convolutions read, where it is computed.

    The placement of TensorRT and OpenVINO: both fuse convolution, bias and activation themselves,
    and any rounding in between breaks that fusion. A residual sum reads its skip rounded, as the
    block's first convolution does, and its other side in float.
    """
    marks = _Marks()
    for node in view.nodes:
        conv = view.conv(node)
        if conv not in int8 or conv is None:
            continue
        tensor = node.input[0]
        sources, passed = view.moved_from(tensor)
        if all(_can_be_simulated(view, source) for source in sources):
            marks.tensors.update(dict.fromkeys(passed))
        else:
            marks.inputs.setdefault(tensor, {})[conv] = None
    return marks


def _around_operators(view: GraphView, int8: set[str]) -> _Marks:
    """Round behind every operator that ONNX Runtime's CPU kernels can compute in INT8.

    They run a convolution in INT8 only if its output is rounded, too: before the activation, unless
    that becomes part of the convolution.
    """
    marks = _conv_inputs(view, int8)
    for node in view.nodes:
        output = node.output[0]
        if view.conv(node) in int8:
            readers = view.readers(output)
            if len(readers) != 1 or readers[0].op_type not in _FUSED:
                marks.tensors[output] = None
        elif node.op_type in _FUSED and view.block_of(output) in int8:
            marks.tensors[output] = None
        elif node.op_type in _COMPUTING and _can_be_simulated(view, output):
            inputs = view.data_inputs(node)
            if inputs and all(tensor in marks.tensors for tensor in inputs):
                marks.tensors[output] = None
    return marks


_MARKERS: Mapping[str, Callable[[GraphView, set[str]], _Marks]] = {
    "onnxruntime": _around_operators,
    "tensorrt": _conv_inputs,
    "openvino": _conv_inputs,
}
_SYMMETRIC = frozenset({"tensorrt"})


def _can_be_simulated(view: GraphView, tensor: str) -> bool:
    """Whether PyTorch has a module that gives ``tensor`` out."""
    return (
        view.producer(tensor) is None
        or view.block_of(tensor) is not None
        or view.module_of(tensor) is not None
    )


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


def _groups(view: GraphView, marks: Mapping[str, _Marks]) -> tuple[QuantizationGroup, ...]:
    rounded = dict.fromkeys(tensor for mark in marks.values() for tensor in mark.tensors)
    symmetric = {
        tensor
        for target in _SYMMETRIC & marks.keys()
        for tensor in [*marks[target].tensors, *marks[target].inputs]
    }
    shared = _Groups()
    for node in view.movers():
        moved = [*view.data_inputs(node), *node.output]
        if all(tensor in rounded for tensor in moved):
            shared.join(moved)
    members: dict[str, list[str]] = {}
    for tensor in rounded:
        members.setdefault(shared.find(tensor), []).append(tensor)
    groups = [_group(view, tensors, symmetric) for tensors in members.values()]
    for mark in marks.values():
        for tensor, convs in mark.inputs.items():
            if tensor not in rounded:
                rounded[tensor] = None
                groups.append(_readers_group(tensor, convs, tensor in symmetric))
    return tuple(groups)


def _group(view: GraphView, tensors: Sequence[str], symmetric: set[str]) -> QuantizationGroup:
    # a mover's output is rounded where its inputs were
    computed = [tensor for tensor in tensors if view.moved_from(tensor)[0] == [tensor]]
    points = tuple(_point(view, tensor) for tensor in computed)
    is_symmetric = not symmetric.isdisjoint(tensors)
    return QuantizationGroup(tensors[0], points, tuple(tensors), is_symmetric)


def _readers_group(tensor: str, convs: Iterable[str], symmetric: bool) -> QuantizationGroup:
    points = tuple(Point(tensor, READER, block_name(conv)) for conv in convs)
    return QuantizationGroup(tensor, points, (tensor,), symmetric, for_readers=True)


def _point(view: GraphView, tensor: str) -> Point:
    node = view.producer(tensor)
    if node is None:
        return Point(tensor, INPUT, "")
    conv = view.block_of(tensor)
    module = view.module_of(tensor) if conv is None else block_name(conv)
    return Point(tensor, node.op_type, module or "")


def _matching(names: set[str], patterns: Sequence[str]) -> set[str]:
    shown = ", ".join(sorted(names)[:3])
    return matching_any(
        sorted(names),
        patterns,
        lambda pattern: ExportError(
            f"float_layers: '{pattern}' matches no convolution. Names look like {shown}; '*' "
            "matches any text."
        ),
    )
