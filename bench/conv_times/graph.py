"""ONNX graphs of nothing but convolutions, side by side, to be timed one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.optional import require

DEPTHWISE = 0
_OPSET, _IR_VERSION = 17, 8


@dataclass(frozen=True, order=True)
class Geometry:
    """A convolution but for its channels. ``height`` and ``width`` are those of its input.

    ``groups`` is ``DEPTHWISE`` where there are as many as channels. ``silu``: x * sigmoid(x)
    follows, and is timed with it.
    """

    kernel: int
    stride: int
    groups: int
    height: int
    width: int
    silu: bool


def conv_graph(geometry: Geometry, pairs: Iterable[tuple[int, int]]) -> bytes:
    """One ONNX graph with a convolution of ``geometry`` for each pair.

    Args:
        geometry: what all of them share.
        pairs: (input channels that each filter sees, output channels).

    Raises:
        BenchError: onnx is missing.
    """
    onnx = require("onnx")
    float32 = onnx.TensorProto.FLOAT
    nodes: list[Any] = []
    weights: list[Any] = []
    sizes: dict[str, int] = {}
    outputs: list[Any] = []
    for inputs, out in pairs:
        name, channels = _name(inputs, out), _input_channels(geometry, inputs, out)
        sizes[f"input{channels}"] = channels
        nodes += _conv_nodes(onnx.helper, geometry, name, f"input{channels}", out)
        shape = (out, inputs, geometry.kernel, geometry.kernel)
        weights.append(onnx.numpy_helper.from_array(_filters(shape), f"{name}/weight"))
        weights.append(onnx.numpy_helper.from_array(np.zeros(out, np.float32), f"{name}/bias"))
        # averaged away at once, so that not all outputs take memory until the end of the run
        averaged = f"average{name}"
        last = nodes[-1].output[0]
        nodes.append(onnx.helper.make_node("GlobalAveragePool", [last], [averaged], averaged))
        outputs.append(onnx.helper.make_tensor_value_info(averaged, float32, [1, out, 1, 1]))
    images = [
        onnx.helper.make_tensor_value_info(
            name, float32, [1, channels, geometry.height, geometry.width]
        )
        for name, channels in sizes.items()
    ]
    graph = onnx.helper.make_graph(nodes, "convolutions", images, outputs, weights)
    opsets = [onnx.helper.make_opsetid("", _OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())


def conv_ms(times: Mapping[str, float], inputs: int, outputs: int) -> float:
    """What one pair's convolution took, with its activation, of the times of all operators."""
    prefix = f"{_name(inputs, outputs)}/"
    return sum(ms for node, ms in times.items() if node.startswith(prefix))


def _name(inputs: int, outputs: int) -> str:
    return f"{inputs}x{outputs}"


def _groups(geometry: Geometry, outputs: int) -> int:
    return outputs if geometry.groups == DEPTHWISE else geometry.groups


def _input_channels(geometry: Geometry, inputs: int, outputs: int) -> int:
    return inputs * _groups(geometry, outputs)


def _filters(shape: tuple[int, ...]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.random.default_rng(0).standard_normal(shape, np.float32)
    values *= 0.01
    return values


def _conv_nodes(helper: Any, geometry: Geometry, name: str, data: str, outputs: int) -> list[Any]:
    convolved = f"{name}/conv"
    nodes = [
        helper.make_node(
            "Conv",
            [data, f"{name}/weight", f"{name}/bias"],
            [convolved],
            convolved,
            kernel_shape=[geometry.kernel] * 2,
            strides=[geometry.stride] * 2,
            pads=[geometry.kernel // 2] * 4,
            group=_groups(geometry, outputs),
        )
    ]
    if geometry.silu:  # as PyTorch exports it; the runtime fuses the two
        gate, product = f"{name}/sigmoid", f"{name}/silu"
        nodes.append(helper.make_node("Sigmoid", [convolved], [gate], gate))
        nodes.append(helper.make_node("Mul", [convolved, gate], [product], product))
    return nodes
