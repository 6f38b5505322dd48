"""The operators of a TensorRT engine, as its inspector lists them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.alignment.graph import Node, Role
from bench.alignment.onnx_nodes import onnx_nodes
from bench.cuda.names import gpu_name
from bench.errors import BenchError
from bench.onnx_file import source_onnx
from bench.runtimes.tensorrt_load import deserialize, load_tensorrt, read_facts

_CHANNEL_AXIS = 1
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def engine_nodes(path: Path) -> list[Node]:
    """The operators in the order in which they run.

    Where TensorRT is missing, or the engine was built without details, those of the ONNX file that
    it was built of, if that lies beside it (``bench.onnx_file.source_onnx``).

    Raises:
        BenchError: neither can be read.
    """
    if not path.is_file():
        raise BenchError(f"'{path}' does not exist. Build it first, or correct the path.")
    try:
        return layers_as_nodes(_inspected(path), path)
    except BenchError as error:
        source = source_onnx(path)
        if source is None:
            raise BenchError(
                f"{error} The ONNX file that it was built of (by '{path.name}.json') is not beside "
                "it either: put both there, or check that file."
            ) from error
        return onnx_nodes(source)


def layers_as_nodes(text: str, path: Path) -> list[Node]:
    """The nodes in the inspector's JSON of the engine ``path``.

    Raises:
        BenchError: it holds names alone or something else, or no convolution: DLA and fused
            regions hide theirs.
    """
    try:
        nodes = [_node(row) for row in json.loads(text)["Layers"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BenchError(
            f"'{path}' does not tell the shapes of its layers: it was built without detailed "
            "profiling verbosity, or leaves shapes open. Build it with 'compress engine'."
        ) from error
    if not any(node.role == "conv" for node in nodes):
        raise BenchError(f"'{path}' shows no convolution: the DLA or fused regions hide them.")
    return nodes


def _inspected(path: Path) -> str:
    tensorrt = load_tensorrt(path)
    engine, _ = deserialize(tensorrt, path, read_facts(path), gpu_name(0))
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))


def _node(row: Mapping[str, Any]) -> Node:
    role = _role(f"{row.get('LayerType', '')} {row.get('ParameterType', '')}".lower())
    channels = (0, 0)
    if role == "conv":
        channels = _channels(row["Inputs"][0]), _channels(row["Outputs"][0])
    return Node(
        name=_name(row),
        role=role,
        inputs=tuple(str(tensor["Name"]) for tensor in row.get("Inputs", ())),
        outputs=tuple(str(tensor["Name"]) for tensor in row.get("Outputs", ())),
        channels=channels,
    )


def _role(kind: str) -> Role:
    if "convolution" in kind:  # CaskConvolution, CaskDeconvolutionV2, ParameterType Convolution
        return "conv"
    return "softmax" if "softmax" in kind else "other"


def _channels(tensor: Mapping[str, Any]) -> int:
    channels = tensor["Dimensions"][_CHANNEL_AXIS]
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(f"channels {channels}")
    return channels


def _name(row: Mapping[str, Any]) -> str:
    """The convolution's operator in the ONNX file where TensorRT kept it (8.6 and newer)."""
    operators: list[str] = _ONNX_LAYER.findall(str(row.get("Metadata", "")))
    convs = [name for name in operators if "conv" in name.rpartition("/")[2].lower()]
    return next(iter(convs or operators), str(row["Name"]))
