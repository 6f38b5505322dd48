"""What the layers of an ONNX graph ask of a device: multiply-accumulates, and bytes moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.onnx_tensors import COMPUTING, TensorFacts
from bench.profile.layer_times import layer_of

_TRANSPOSED = "ConvTranspose"
_BYTE = 8


@dataclass(frozen=True)
class Work:
    """One convolution or matrix product on one batch.

    ``kind`` is such as ``conv 3x3 s1``. ``outputs`` are its output channels; None of a product of
    two computed tensors. Bytes are those of its tensors as they lie in memory: of an INT8 tensor
    one an element. Weights are what stands in the file. ``int8``: both of its factors are integers
    in the file; a runtime need not compute on them.
    """

    operator: str
    module: str
    kind: str
    outputs: int | None
    macs: int
    int8: bool
    weight_bytes: int
    input_bytes: int
    output_bytes: int

    @property
    def bytes(self) -> int:
        """All that it reads and writes, once."""
        return self.weight_bytes + self.input_bytes + self.output_bytes


@dataclass(frozen=True)
class NetWork:
    """``layers`` in graph order, and the kinds of all operators of each module."""

    layers: tuple[Work, ...]
    operators: dict[str, list[str]]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole net, one batch."""
        return sum(layer.macs for layer in self.layers)


def work_of(
    path: Path, shape: Sequence[int] | None = None, float_bits: int = 32, int8: bool = True
) -> NetWork:
    """The work of an ONNX file, float or with Q/DQ.

    Args:
        path: the file.
        shape: of its input, where the file leaves it open.
        float_bits: what a float32 takes on the device: 32, or 16 where it computes in half.
        int8: whether the device computes on integers; if not, they count as floats.

    Raises:
        BenchError: onnx is missing; the file cannot be read, has no convolution and no matrix
            product, leaves its input open, or holds an operator whose shapes onnx cannot tell.
    """
    facts = TensorFacts(path, shape, float_bits, int8)
    layers = tuple(_work(node, facts) for node in facts.nodes if node.op_type in COMPUTING)
    if not layers:
        raise BenchError(f"'{path}' has no convolution: it is empty, truncated or no detector.")
    operators: dict[str, list[str]] = {}
    for node in facts.nodes:
        if node.op_type != "Constant":
            operators.setdefault(layer_of(node.name), []).append(node.op_type)
    return NetWork(layers, operators)


def _work(node: Any, facts: TensorFacts) -> Work:
    factors = _factors(node)
    weights = factors[1]
    output = node.output[0]
    conv = "Conv" in node.op_type
    shape = facts.shape(output)
    sizes = {factor: _bytes(facts.shape(factor), facts.bits(factor)) for factor in factors}
    constants = [factor for factor in sizes if facts.is_constant(factor)]
    weight_bytes = sum(sizes[factor] for factor in constants)
    outputs = shape[1] if conv else shape[-1] if weights in constants else None
    return Work(
        operator=node.name or output,
        module=layer_of(node.name),
        kind=_conv_kind(node, facts.shape(weights)) if conv else "matmul",
        outputs=outputs,
        macs=_macs(node, facts),
        int8=max(map(facts.bits, factors)) <= _BYTE,
        weight_bytes=weight_bytes,
        input_bytes=sum(sizes.values()) - weight_bytes,
        output_bytes=_bytes(shape, facts.bits_written(output)),
    )


def _factors(node: Any) -> tuple[str, str]:
    """The tensors that are multiplied; the linear operators have scale and zero point between."""
    return node.input[0], node.input[3 if node.op_type.startswith("QLinear") else 1]


def _macs(node: Any, facts: TensorFacts) -> int:
    data, weights = _factors(node)
    if node.op_type == _TRANSPOSED:  # every input value meets every filter of its group
        return math.prod(facts.shape(data)) * math.prod(facts.shape(weights)[1:])
    if "Conv" in node.op_type:
        return math.prod(facts.shape(node.output[0])) * math.prod(facts.shape(weights)[1:])
    depth = facts.shape(data)[0 if _attribute(node, "transA", 0) else -1]
    return math.prod(facts.shape(node.output[0])) * depth


def _conv_kind(node: Any, weights: Sequence[int]) -> str:
    groups = _attribute(node, "group", 1)
    prefix = "transposed " if node.op_type == _TRANSPOSED else ""
    if groups > 1:
        prefix += "depthwise " if weights[1] == 1 else "grouped "
    stride = _attribute(node, "strides", [1])[0]
    return f"{prefix}conv {'x'.join(map(str, weights[2:]))} s{stride}"


def _attribute(node: Any, name: str, default: Any) -> Any:
    for entry in node.attribute:
        if entry.name == name:
            return list(entry.ints) if entry.ints else entry.i
    return default


def _bytes(shape: Sequence[int], bits: int) -> int:
    return math.ceil(math.prod(shape) * bits / _BYTE)
