"""What an engine runs: the layers that TensorRT's inspector lists, and which stayed float."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.errors import ExportError

# the prose of a format, such as "Thirty-two wide channel vectorized row major Int8 format"
_TYPES = re.compile(
    r"\b(uint8|int8|int4|fp8|fp4|bf16|bfloat16|fp16|half|fp32|float32|float|int32|int64|bool)\b",
    re.I,
)
_SHORT = {"HALF": "FP16", "FLOAT": "FP32", "FLOAT32": "FP32", "BFLOAT16": "BF16"}
_FLOATING = frozenset({"FP32", "FP16", "BF16"})
_UNKNOWN = "unknown"
# they move or convert values
_NOT_COMPUTING = frozenset({"reformat", "noop", "constant", "signal", "wait"})
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_NAME = re.compile(r"[\w/.-]+")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine. ``inputs`` and ``outputs`` are the types of its tensors.

    ``modules`` are the PyTorch modules whose operators it computes. ``quantized``: one of them has
    Q/DQ at its input, so that INT8 was expected.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    modules: tuple[str, ...] = ()
    quantized: bool = False

    @property
    def untold(self) -> bool:
        """Whether the inspector does not tell a type of its tensors."""
        return _UNKNOWN in (*self.inputs, *self.outputs)

    @property
    def stayed_float(self) -> bool:
        """Whether it computes on floats alone."""
        if self.kind.lower() in _NOT_COMPUTING:
            return False
        return bool(self.inputs) and set(self.inputs) <= _FLOATING


def read_layers(
    text: str, modules: Mapping[str, str], int8: frozenset[str] = frozenset()
) -> list[EngineLayer]:
    """The layers in the inspector's JSON, in the order in which they run.

    Args:
        text: ``get_engine_information(LayerInformationFormat.JSON)`` of an engine that was built
            with detailed profiling verbosity.
        modules: operator of the ONNX file -> PyTorch module.
        int8: operators of the file that read quantized tensors.

    Raises:
        ExportError: the text is something else.
    """
    try:
        rows = json.loads(text)["Layers"]
        return [_layer(row, modules, int8) for row in rows]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ExportError(
            "TensorRT's engine inspector gave no list of layers with their types "
            f"({type(error).__name__}: {error}), so it is unknown what stayed float. Build with "
            "detailed profiling verbosity, or look with trtexec --exportLayerInfo."
        ) from error


def _layer(row: Mapping[str, Any], modules: Mapping[str, str], int8: frozenset[str]) -> EngineLayer:
    name = str(row["Name"])
    operators = _operators(name, str(row.get("Metadata", "")), modules)
    return EngineLayer(
        name=name,
        kind=str(row.get("LayerType", _UNKNOWN)),
        inputs=_types(row.get("Inputs", ())),
        outputs=_types(row.get("Outputs", ())),
        modules=tuple(dict.fromkeys(modules[name] for name in operators if modules[name])),
        quantized=not int8.isdisjoint(operators),
    )


def _operators(name: str, metadata: str, modules: Mapping[str, str]) -> list[str]:
    """ONNX operators of a layer: by its metadata (8.6 and newer), else by its name."""
    named = _ONNX_LAYER.findall(metadata)
    if not named:  # "{ForeignNode[/a/Conv.../b/Mul]}" names the first and the last
        named = [found for part in name.split("...") for found in _NAME.findall(part)]
    return [operator for operator in named if operator in modules]


def _types(tensors: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(_type(str(tensor.get("Format/Datatype", ""))) for tensor in tensors)


def _type(prose: str) -> str:
    found = _TYPES.search(prose)
    word = found[1].upper() if found else _UNKNOWN
    return _SHORT.get(word, word)
