"""Channel counts of the convolutions of an ONNX file, read from the file itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError
from bench.optional import require

Side = Literal["input", "output"]

IMAGE = "the image's channels"
HEAD = "an output of the net: its channels are classes, box bins, coordinates or masks"
BOX_BINS = "the bins of the box distribution (DFL)"

# Where an operator's weights stand among its inputs; its data stands at 0.
_WEIGHT_INPUT = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
# what else reads channels, at the end of a classifier
_DENSE = {"Gemm", "QGemm"}
_SOFTMAX = {"Softmax", "QLinearSoftmax"}
_SHAPE_KEEPING = {"DequantizeLinear", "QuantizeLinear", "Cast", "Identity"}


@dataclass(frozen=True)
class Misaligned:
    """One side of a convolution whose number of channels is not a multiple."""

    layer: str
    side: Side
    channels: int


@dataclass(frozen=True)
class ConvSide:
    """One side of a convolution. ``exempt`` says why its channels may be ragged, else empty."""

    layer: str
    side: Side
    channels: int
    exempt: str = ""


def misaligned_convs(
    path: Path, align: int, exempt: Mapping[str, str] | None = None
) -> list[Misaligned]:
    """The sides of convolutions whose channels are no multiple of ``align``, in graph order.

    Args:
        path: an ONNX file, float or quantized.
        align: the channel multiple, >= 1.
        exempt: layer name -> the reason why that layer may be ragged, on top of those that the
            task fixes (see ``conv_sides``).

    Raises:
        BenchError: the file cannot be read, has no convolution, or lacks a layer of ``exempt``.
    """
    return [
        Misaligned(conv.layer, conv.side, conv.channels)
        for conv in conv_sides(path, exempt)
        if not conv.exempt and conv.channels % align
    ]


def conv_sides(path: Path, exempt: Mapping[str, str] | None = None) -> list[ConvSide]:
    """Both sides of every convolution in graph order, channels counted over all groups.

    Exempt is what no pruning can change, found by reachability: the input of a convolution with no
    other before it (the image), the output of one with no layer but the DFL's behind it (the
    head's outputs), and the DFL's own input.

    Raises:
        BenchError: the file cannot be read, has no convolution, or lacks a layer of ``exempt``.
    """
    convs = _Graph(path).conv_sides()
    if not convs:
        raise BenchError(f"'{path}' has no convolution: it is empty, truncated or no detector.")
    reasons = dict(exempt or {})
    unknown = sorted(reasons.keys() - {conv.layer for conv in convs})
    if unknown:
        raise BenchError(f"'{path}' has no convolution {unknown}: correct the exempt layers.")
    return [
        ConvSide(conv.layer, conv.side, conv.channels, conv.exempt or reasons.get(conv.layer, ""))
        for conv in convs
    ]


def misalignment_message(misaligned: Mapping[str, Sequence[Misaligned]], align: int) -> str:
    """One text for all offenders, by file: what is wrong, a table, what to do."""
    rows = [
        (label, fault.layer, fault.side, str(fault.channels))
        for label, faults in misaligned.items()
        for fault in faults
    ]
    head = ("file", "layer", "side", "channels")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, tuple("-" * width for width in widths), *rows)
    ]
    return "\n".join(
        [
            f"Channels that are not a multiple of {align}, on which the device would lose speed:",
            *table,
            f"Prune with `align: {align}` and export again, or lower `align` of the bench.",
        ]
    )


class _Graph:
    """The nodes of one file, which ONNX keeps in the order in which they run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        graph = _load_graph(path)
        self._nodes: list[Any] = list(graph.node)
        self._weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self._producer = {name: node for node in self._nodes for name in node.output}

    def conv_sides(self) -> list[ConvSide]:
        after_a_conv = self._tensors_after_a_conv()
        before_a_conv = self._tensors_before_a_conv()
        sides = []
        for node in filter(_is_conv, self._nodes):
            inputs, outputs = self._channels(node)
            input_reason = "" if node.input[0] in after_a_conv else IMAGE
            if self._is_dfl(node):
                input_reason = BOX_BINS
            output_reason = "" if before_a_conv.intersection(node.output) else HEAD
            layer = node.name or node.output[0]
            sides.append(ConvSide(layer, "input", inputs, input_reason))
            sides.append(ConvSide(layer, "output", outputs, output_reason))
        return sides

    def _tensors_after_a_conv(self) -> set[str]:
        found: set[str] = set()
        for node in self._nodes:
            if _is_conv(node) or found.intersection(node.input):
                found.update(node.output)
        return found

    def _tensors_before_a_conv(self) -> set[str]:
        """Tensors that some layer depends on; the DFL's, being no feature map, left out."""
        found: set[str] = set()
        for node in reversed(self._nodes):
            leads_to_conv = bool(found.intersection(node.output))
            reads = node.op_type in _DENSE or (_is_conv(node) and not self._is_dfl(node))
            if leads_to_conv or reads:
                found.update(node.input)
        return found

    def _is_dfl(self, node: Any) -> bool:
        """The expectation over box bins: one output channel, right behind a softmax."""
        if self._channels(node)[1] != 1:
            return False
        producer = self._producer.get(node.input[0])
        while producer is not None and producer.input and not _is_conv(producer):
            if producer.op_type in _SOFTMAX:
                return True
            producer = self._producer.get(producer.input[0])
        return False

    def _channels(self, node: Any) -> tuple[int, int]:
        """Input and output channels of the whole tensors, all groups together."""
        shape = self._weight_shape(node)
        groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
        if node.op_type == "ConvTranspose":
            return shape[0], shape[1] * groups
        return shape[1] * groups, shape[0]

    def _weight_shape(self, node: Any) -> tuple[int, ...]:
        name = node.input[_WEIGHT_INPUT[node.op_type]]
        while name not in self._weights:
            producer = self._producer.get(name)
            if producer is not None and producer.op_type == "Constant":
                return tuple(producer.attribute[0].t.dims)
            if producer is None or producer.op_type not in _SHAPE_KEEPING:
                raise BenchError(
                    f"'{self._path}': the weights of '{node.name or node.output[0]}' are computed "
                    "while the net runs, so its channels cannot be read. Export with constant "
                    "folding on."
                )
            name = producer.input[0]
        return self._weights[name]


def _is_conv(node: Any) -> bool:
    return node.op_type in _WEIGHT_INPUT


def _load_graph(path: Path) -> Any:
    onnx = require("onnx")
    try:
        return onnx.load(str(path), load_external_data=False).graph
    except OSError as error:
        raise BenchError(f"'{path}' cannot be read: {error.strerror}.") from error
    except Exception as error:  # protobuf raises kinds of its own
        raise BenchError(f"'{path}' is truncated or no ONNX file: export it again.") from error
