"""An ONNX file as TensorRT will read it, checked before anything is built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.errors import ExportError

if TYPE_CHECKING:
    import onnx

_UINT8, _FLOAT16 = 2, 10  # of onnx.TensorProto
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Source:
    """What the engine is built of.

    ``nodes`` are the operators' names in the graph's order. ``modules`` maps those that compute
    something to their PyTorch modules; ``int8`` are the ones that read quantized tensors. ``half``:
    weights or inputs are FP16. ``inputs`` maps each input to its sizes, None where one is open.
    ``metadata`` is what the exporter wrote into the file: task, class names and such.
    """

    path: Path
    content: bytes
    nodes: tuple[str, ...]
    modules: Mapping[str, str]
    int8: frozenset[str]
    half: bool
    inputs: Mapping[str, tuple[int | None, ...]]
    metadata: Mapping[str, str]

    @property
    def quantized(self) -> bool:
        """Whether the file holds Q/DQ pairs."""
        return bool(self.int8)

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def open_inputs(self) -> dict[str, tuple[int | None, ...]]:
        """Inputs with sizes that the file leaves open."""
        return {name: sizes for name, sizes in self.inputs.items() if None in sizes}

    def facts(self) -> dict[str, Any]:
        """All but the content, as JSON values: what ``load_source`` needs where onnx is missing."""
        return {
            "path": str(self.path),
            "nodes": list(self.nodes),
            "modules": dict(self.modules),
            "int8": sorted(self.int8),
            "half": self.half,
            "inputs": {name: list(sizes) for name, sizes in self.inputs.items()},
            "metadata": dict(self.metadata),
        }


def load_source(facts: Path) -> Source:
    """A source of which a machine with the onnx package has written the ``facts``, a JSON file.

    Raises:
        ExportError: these or the file they name cannot be read.
    """
    try:
        told = json.loads(facts.read_text(encoding="utf-8"))
        path = Path(told["path"])
        return Source(
            path=path,
            content=path.read_bytes(),
            nodes=tuple(told["nodes"]),
            modules=told["modules"],
            int8=frozenset(told["int8"]),
            half=told["half"],
            inputs={name: tuple(sizes) for name, sizes in told["inputs"].items()},
            metadata=told["metadata"],
        )
    except OSError as error:
        raise ExportError(f"{facts}: cannot be read ({error}).") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{facts}: not the facts of an ONNX file: {error}.") from error


def read_source(path: Path) -> Source:
    """Read ``path``; nothing of it is run.

    Raises:
        ExportError: the file is missing, unreadable or empty, or is quantized to u8, which TensorRT
            does not take.
    """
    import onnx

    from export.graph_view import block_name, scope_of
    from export.int8_layers import reading_int8

    try:
        content = path.read_bytes()
        model = onnx.load_from_string(content)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror}). Correct the path.") from None
    except Exception as error:  # protobuf raises kinds of its own
        raise ExportError(f"{path}: not a readable ONNX file. Export it again.") from error
    graph = model.graph
    if not graph.node or not graph.input:
        raise ExportError(f"{path}: a graph without inputs or operators. Export it again.")
    _refuse_unsigned(graph, path)
    weights = {tensor.name for tensor in graph.initializer}
    computing = [n for n in graph.node if n.name and n.op_type not in {*_QUANTIZING, "Constant"}]
    return Source(
        path=path,
        content=content,
        nodes=tuple(str(node.name) for node in graph.node),
        modules={str(node.name): block_name(scope_of(node)) for node in computing},
        int8=reading_int8(graph) & {str(node.name) for node in computing},
        half=_FLOAT16 in _types(graph),
        inputs={i.name: _sizes(i) for i in graph.input if i.name not in weights},
        metadata={str(pair.key): str(pair.value) for pair in model.metadata_props},
    )


def _refuse_unsigned(graph: onnx.GraphProto, path: Path) -> None:
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        zero = node.input[2] if node.op_type in _QUANTIZING and len(node.input) > 2 else ""
        if types.get(zero) == _UINT8:
            raise ExportError(
                f"{path}: '{node.name}' quantizes to u8, and TensorRT takes symmetric s8 alone. "
                "Build from int8-tensorrt.onnx (export.targets: [tensorrt])."
            )


def _types(graph: onnx.GraphProto) -> set[int]:
    """Types of weights and inputs."""
    inputs = {entry.type.tensor_type.elem_type for entry in graph.input}
    return inputs | {tensor.data_type for tensor in graph.initializer}


def _sizes(entry: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    sizes = entry.type.tensor_type.shape.dim
    return tuple(size.dim_value if size.dim_value > 0 else None for size in sizes)
