"""Channel counts of the convolutions of an artifact, read from the file itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.alignment.engine_nodes import engine_nodes
from bench.alignment.graph import BOX_BINS, HEAD, IMAGE, ConvSide, Node, Side, sides_of
from bench.alignment.onnx_nodes import onnx_nodes
from bench.alignment.openvino_nodes import openvino_nodes
from bench.errors import BenchError
from bench.profile.layer_times import layer_of
from bench.text_table import text_table

__all__ = [
    "BOX_BINS",
    "HEAD",
    "IMAGE",
    "ConvSide",
    "Misaligned",
    "conv_sides",
    "misaligned_convs",
    "misalignment_message",
]

_READERS: Mapping[str, Callable[[Path], list[Node]]] = {
    ".onnx": onnx_nodes,
    ".xml": openvino_nodes,
    ".engine": engine_nodes,
}


@dataclass(frozen=True)
class Misaligned:
    """One side of a convolution whose number of channels is not a multiple."""

    layer: str
    side: Side
    channels: int


def misaligned_convs(
    path: Path, align: int, exempt: Mapping[str, str] | None = None
) -> list[Misaligned]:
    """The sides of convolutions whose channels are no multiple of ``align``, in graph order.

    Args:
        path: an ONNX file, an OpenVINO IR's ``.xml`` or a TensorRT engine, float or quantized.
        align: the channel multiple, >= 1.
        exempt: layer name -> the reason why that layer may be ragged, on top of those that the
            task fixes (see ``bench.alignment.graph.sides_of``).

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

    Raises:
        BenchError: the file cannot be read, has no convolution, or lacks a layer of ``exempt``.
    """
    convs = sides_of(_reader(path)(path))
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
    """One text for all offenders, by file: what is wrong, a table, what to do.

    Layers are named by their PyTorch module where the file keeps it. ``missing`` is how many
    channels it takes to the next multiple.
    """
    rows = [
        (
            label,
            layer_of(fault.layer) or fault.layer,
            fault.side,
            str(fault.channels),
            str(-fault.channels % align),
        )
        for label, faults in misaligned.items()
        for fault in faults
    ]
    head = ("file", "layer", "side", "channels", "missing")
    return "\n".join(
        [
            f"Channels that are not a multiple of {align}, on which the device would lose speed:",
            text_table(head, rows, left=3),
            f"Prune with `align: {align}` and export again, or lower `align` of the bench.",
        ]
    )


def _reader(path: Path) -> Callable[[Path], list[Node]]:
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise BenchError(
            f"'{path}': channels are read from {', '.join(_READERS)} files. Check the file that "
            "was exported of it."
        )
    return reader
