"""The operators of an OpenVINO IR, read from its ``.xml`` alone: every port tells its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from bench.alignment.graph import Node, Role
from bench.errors import BenchError

_CONVS = {
    "Convolution",
    "BinaryConvolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
}
_LAYER = ["net", "layers", "layer"]  # deeper ones are bodies of loops and branches
_EDGE = ["net", "edges", "edge"]


@dataclass
class _Layer:
    """One layer; ``shapes`` by port."""

    name: str
    kind: str
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    shapes: dict[str, list[int]] = field(default_factory=dict)


def openvino_nodes(path: Path) -> list[Node]:
    """The operators in the file's order.

    Weights may be constants or come through Convert, Multiply or FakeQuantize: the shape that
    counts is the one that the convolution reads.

    Raises:
        BenchError: the file cannot be read, or leaves the shape of weights open.
    """
    reader = _Reader()
    try:
        reader.read(path.read_bytes())
    except OSError as error:
        raise BenchError(f"'{path}' cannot be read: {error.strerror}.") from error
    except (expat.ExpatError, KeyError, ValueError, IndexError) as error:
        raise BenchError(
            f"'{path}' is truncated or no OpenVINO IR ({error}): convert it again."
        ) from error
    return [_node(key, layer, reader.edges, path) for key, layer in reader.layers.items()]


class _Reader:
    """Layers by id and edges of one file, without loading its text as a tree."""

    def __init__(self) -> None:
        self.layers: dict[str, _Layer] = {}
        self.edges: dict[tuple[str, str], str] = {}  # (layer, input port) -> tensor
        self._path: list[str] = []
        self._layer = _Layer("", "")
        self._port = ""
        self._size = ""

    def read(self, content: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.Parse(content, True)

    def _refuse(self, *declaration: object) -> None:
        raise ValueError("it declares a document type, which may hold entities")

    def _start(self, tag: str, given: Mapping[str, str]) -> None:
        self._path.append(tag)
        if self._path == _LAYER:
            self._layer = _Layer(given["name"], given["type"])
            self.layers[given["id"]] = self._layer
        elif self._path == _EDGE:
            tensor = _tensor(given["from-layer"], given["from-port"])
            self.edges[given["to-layer"], given["to-port"]] = tensor
        elif self._path[:3] == _LAYER and tag == "port" and len(self._path) == 5:
            self._port = given["id"]
            self._layer.shapes[self._port] = []
            ports = self._layer.inputs if self._path[3] == "input" else self._layer.outputs
            ports.append(self._port)
        self._size = ""

    def _text(self, text: str) -> None:
        self._size += text

    def _end(self, tag: str) -> None:
        if self._path[:3] == _LAYER and tag == "dim" and len(self._path) == 6:
            self._layer.shapes[self._port].append(int(self._size))
        self._path.pop()


def _tensor(layer: str, port: str) -> str:
    return f"{layer}:{port}"


def _node(key: str, layer: _Layer, edges: Mapping[tuple[str, str], str], path: Path) -> Node:
    role = _role(layer)
    inputs = tuple(edges[key, port] for port in layer.inputs if (key, port) in edges)
    outputs = tuple(_tensor(key, port) for port in layer.outputs)
    channels = _channels(layer, path) if role == "conv" else (0, 0)
    return Node(layer.name, role, inputs, outputs, channels)


def _role(layer: _Layer) -> Role:
    if layer.kind in _CONVS:
        return "conv"
    if layer.kind in ("SoftMax", "Softmax"):
        return "softmax"
    # a classifier's end; products of more dimensions are attention, or the DFL
    if layer.kind == "MatMul" and len(layer.shapes[layer.inputs[0]]) == 2:
        return "dense"
    return "other"


def _channels(layer: _Layer, path: Path) -> tuple[int, int]:
    """Input and output channels of the whole tensors, all groups together."""
    shape = layer.shapes[layer.inputs[1]] if len(layer.inputs) > 1 else []
    grouped = layer.kind.startswith("Group")
    sizes = shape[: 3 if grouped else 2]
    if len(shape) < (3 if grouped else 2) or min(sizes) < 1:
        raise BenchError(
            f"'{path}': the weights of '{layer.name}' have no fixed shape, so its channels cannot "
            "be read. Convert the net with constant weights."
        )
    groups, first, second = sizes if grouped else [1, *sizes]
    if layer.kind.endswith("BackpropData"):
        return groups * first, groups * second
    return groups * second, groups * first
