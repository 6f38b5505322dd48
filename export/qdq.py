"""Edit an ONNX graph: put QuantizeLinear / DequantizeLinear pairs where a dialect wants them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[np.generic]
_LEAST_SCALE = np.finfo(np.float32).tiny


def weight_scale(weight: npt.NDArray[np.float32], qmax: int) -> npt.NDArray[np.float32]:
    """The largest magnitude of each output channel / ``qmax``, (out,), in float32 as in training.

    Args:
        weight: (out, in, kh, kw) float32.
        qmax: largest integer, 127 of 8 bits.
    """
    peak = np.abs(weight.reshape(weight.shape[0], -1)).max(1)
    scale = np.maximum(peak / np.float32(qmax), _LEAST_SCALE)
    return np.asarray(scale, np.float32)


def quantize_weight(
    weight: npt.NDArray[np.float32], scale: npt.NDArray[np.float32], qmax: int
) -> Array:
    """``weight`` (out, in, kh, kw) as int8 in -qmax..qmax, on a grid of ``scale`` (out,)."""
    # training multiplies by the inverse; dividing would round a few weights the other way
    inverse = (np.float32(1) / scale).reshape(-1, 1, 1, 1)
    return np.asarray(np.clip(np.rint(weight * inverse), -qmax, qmax), np.int8)


class GraphEditor:
    """A float graph being rewritten. ``finish`` gives the model, sorted and checked."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Work on a copy of ``model``."""
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._weights: dict[str, Array] = {
            t.name: numpy_helper.to_array(t) for t in self.model.graph.initializer
        }
        self._added: list[onnx.NodeProto] = []
        self._new: dict[str, onnx.TensorProto] = {}

    @property
    def nodes(self) -> Iterable[onnx.NodeProto]:
        """The nodes of the float graph."""
        return list(self.model.graph.node)

    def constant(self, name: str, values: Array) -> str:
        """Add an initializer; gives its name."""
        self._new[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def dequantize(self, source: str, scale: str, zero_point: str, axis: int | None = None) -> str:
        """Add a DequantizeLinear; gives its output."""
        output = f"{source}_dequantized"
        inputs = [source, scale, zero_point]
        attributes = {} if axis is None else {"axis": axis}
        self._added.append(
            helper.make_node("DequantizeLinear", inputs, [output], f"{output}_node", **attributes)
        )
        return output

    def quantized_tensor(self, tensor: str, scale: float, zero_point: int, dtype: type) -> str:
        """Add Q and DQ behind ``tensor``; gives the tensor that consumers must read."""
        scale_name = self.constant(f"{tensor}_scale", np.array(scale, np.float32))
        zero_name = self.constant(f"{tensor}_zero_point", np.array(zero_point, dtype))
        integer = f"{tensor}_quantized"
        self._added.append(
            helper.make_node(
                "QuantizeLinear", [tensor, scale_name, zero_name], [integer], f"{integer}_node"
            )
        )
        return self.dequantize(integer, scale_name, zero_name)

    def quantized_weight(self, name: str, qmax: int, scales: Sequence[float] | None) -> str:
        """Replace a weight by INT8 and a DequantizeLinear; gives the tensor to read.

        Args:
            name: of the weight.
            qmax: largest integer.
            scales: of the output channels; None takes their largest magnitudes.
        """
        weights = self._weights[name].astype(np.float32)
        return self._int8_weight(name, weights, _scales(weights, qmax, scales), qmax)

    def quantized_filter(
        self, weight: str, bias: str, input_scale: float, qmax: int, scales: Sequence[float] | None
    ) -> tuple[str, str]:
        """Replace a weight by INT8 and its bias by int32 at scale input x weight.

        Gives the tensors to read. A nearly dead channel gets a scale at which its bias fits.
        """
        most = 1 << 30  # half of int32: the sum of products comes on top
        biases = self._weights[bias].astype(np.float64)
        weights = self._weights[weight].astype(np.float32)
        least = (np.abs(biases) / input_scale / most).astype(np.float32)
        weight_scales = np.maximum(_scales(weights, qmax, scales), least)
        products = (weight_scales * np.float32(input_scale)).astype(np.float32)
        values = np.clip(np.rint(biases / products), -most, most).astype(np.int32)
        integer = self.constant(f"{bias}_int32", values)
        scale = self.constant(f"{bias}_scale", products)
        zero = self.constant(f"{bias}_zero_point", np.zeros(len(products), np.int32))
        new_weight = self._int8_weight(weight, weights, weight_scales, qmax)
        return new_weight, self.dequantize(integer, scale, zero, axis=0)

    def _int8_weight(
        self,
        name: str,
        weights: npt.NDArray[np.float32],
        scales: npt.NDArray[np.float32],
        qmax: int,
    ) -> str:
        integer = self.constant(f"{name}_int8", quantize_weight(weights, scales, qmax))
        scale = self.constant(f"{name}_scale", scales)
        zero = self.constant(f"{name}_zero_point", np.zeros(len(scales), np.int8))
        return self.dequantize(integer, scale, zero, axis=0)

    def finish(self) -> onnx.ModelProto:
        """The rewritten model: unused weights dropped, nodes in topological order."""
        graph = self.model.graph
        nodes = _sorted([*graph.node, *self._added], graph)
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [t for t in graph.initializer if t.name in used]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *(t for n, t in self._new.items() if n in used)])
        del graph.value_info[:]
        onnx.checker.check_model(self.model)
        return self.model


def _scales(
    weights: npt.NDArray[np.float32], qmax: int, scales: Sequence[float] | None
) -> npt.NDArray[np.float32]:
    if scales is None:
        return weight_scale(weights, qmax)
    return np.asarray(scales, np.float32)


def _sorted(nodes: list[onnx.NodeProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    produced = {name: node for node in nodes for name in node.output}
    done: dict[str, onnx.NodeProto] = {}
    for start in nodes:
        stack = [start]
        while stack:
            node = stack[-1]
            if node.output[0] in done:
                stack.pop()
                continue
            missing = [
                produced[name]
                for name in node.input
                if name in produced and produced[name].output[0] not in done
            ]
            if missing:
                stack.extend(missing)
            else:
                done[node.output[0]] = stack.pop()
    return list(done.values())
