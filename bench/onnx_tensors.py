"""Shapes and stored sizes of the tensors of an ONNX graph, by onnx's own shape inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.onnx_file import load_onnx
from bench.onnx_shapes import fixed_shapes, infer_shapes
from bench.optional import require
from bench.runtimes.inputs import fixed_shape, input_count_error

# operators behind which values are new, so that no rounding of theirs is that of what went in
COMPUTING = frozenset(
    {
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
    }
)
_BITS = {"INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8, "FLOAT16": 16, "BFLOAT16": 16, "DOUBLE": 64}
_VALUE_KEEPING = {"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"}
_SHAPES_ONLY = {"Shape", "Size"}  # they read no values


class TensorFacts:
    """Shapes, and the bits an element of each tensor takes where Q/DQ are carried out.

    ``nodes`` are the operators in graph order.
    """

    def __init__(
        self, path: Path, shape: Sequence[int] | None, float_bits: int, int8: bool
    ) -> None:
        """Read and infer.

        Args:
            path: an ONNX file.
            shape: of its input, where the file leaves it open.
            float_bits: what a float32 takes on the device: 32, or 16 where it computes in half.
            int8: whether the device computes on integers; if not, they count as floats.

        Raises:
            BenchError: onnx is missing, the file cannot be read, or its input stays open.
        """
        self._path = path
        onnx = require("onnx")
        graph = _inferred(onnx, path, shape)
        self.nodes: list[Any] = list(graph.node)
        self._float_bits = float_bits
        self._int8 = int8
        self._constants = {tensor.name for tensor in graph.initializer}
        self._outputs = {output.name for output in graph.output}
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._shapes = fixed_shapes(graph)
        self._types: dict[str, str] = {}
        for info in (*graph.input, *graph.output, *graph.value_info):
            kind = info.type.tensor_type.elem_type
            self._types[info.name] = onnx.TensorProto.DataType.Name(kind)
        for tensor in graph.initializer:
            self._types[tensor.name] = onnx.TensorProto.DataType.Name(tensor.data_type)
            self._shapes[tensor.name] = tuple(tensor.dims)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Sizes of a tensor.

        Raises:
            BenchError: it is not known, mostly because of an operator that onnx does not know.
        """
        if tensor not in self._shapes:
            raise BenchError(
                f"'{self._path}': the shape of '{tensor}' is unknown{self._unknown_before(tensor)}."
            )
        return self._shapes[tensor]

    def is_constant(self, tensor: str) -> bool:
        """Whether its values stand in the file, as they are or rounded."""
        producer = self._producers.get(tensor)
        while producer is not None and producer.op_type in _VALUE_KEEPING:
            tensor = producer.input[0]
            producer = self._producers.get(tensor)
        return tensor in self._constants or getattr(producer, "op_type", "") == "Constant"

    def bits(self, tensor: str) -> int:
        """Bits of one element as it is read: behind DequantizeLinear those of its integer."""
        producer = self._producers.get(tensor)
        if producer is not None and producer.op_type == "DequantizeLinear":
            return self._own_bits(producer.input[0])
        return self._own_bits(tensor)

    def bits_written(self, tensor: str) -> int:
        """Bits of one element as it is kept: the integer's if all that reads it is quantized.

        Activations and operators that only move values are taken as fused with what computed it,
        or as moving integers.
        """
        widest, seen, left = 0, {tensor}, [tensor]
        while left:
            name = left.pop()
            readers = [n for n in self._readers.get(name, ()) if n.op_type not in _SHAPES_ONLY]
            if name in self._outputs or not readers:
                return self._own_bits(tensor)
            for reader in readers:
                if reader.op_type in COMPUTING:
                    return self._own_bits(tensor)
                if reader.op_type == "QuantizeLinear":
                    widest = max(widest, self._own_bits(reader.output[0]))
                    continue
                left.extend(set(reader.output) - seen)
                seen.update(reader.output)
        return widest

    def _own_bits(self, tensor: str) -> int:
        bits = _BITS.get(self._types.get(tensor, ""), 32)
        as_float = bits == 32 or (bits <= 8 and not self._int8)
        return self._float_bits if as_float else bits

    def _unknown_before(self, tensor: str) -> str:
        """The operators that shape inference stopped at, on the way to ``tensor``."""
        left, seen = [tensor], {tensor}
        while left:
            producer = self._producers.get(left.pop())
            if producer is None:
                continue
            unknown = [name for name in producer.input if name and name not in self._shapes]
            if not unknown:
                kind = f"{producer.domain}:{producer.op_type}".lstrip(":")
                return f": onnx cannot tell what '{producer.name}' ({kind}) gives"
            left.extend(set(unknown) - seen)
            seen.update(unknown)
        return ""


def _inferred(onnx: Any, path: Path, shape: Sequence[int] | None) -> Any:
    model = load_onnx(path)
    _fix_input(model.graph, shape, path)
    del model.graph.value_info[:]  # of another input size, perhaps
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        return infer_shapes(onnx, model)
    except Exception as error:  # onnx raises several kinds, with no base of their own
        raise BenchError(f"'{path}': onnx cannot infer the shapes of its tensors: {error}") from (
            error
        )


def _fix_input(graph: Any, wanted: Sequence[int] | None, path: Path) -> None:
    """Sizes of the one input, set in ``graph``; weights that are inputs too become constants."""
    weights: Mapping[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in weights]
    if len(inputs) != 1:
        raise input_count_error([entry.name for entry in inputs], path)
    [entry] = inputs
    sizes = entry.type.tensor_type.shape.dim
    declared = [size.dim_value if size.dim_value > 0 else (size.dim_param or "?") for size in sizes]
    for size, fixed in zip(sizes, fixed_shape(entry.name, declared, wanted, path)):
        size.dim_value = fixed
    del graph.input[:]
    graph.input.append(entry)
