"""Small ONNX nets for the bench tests, built node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Conv:
    """One convolution: name, input channels, output channels, groups."""

    name: str
    inputs: int
    outputs: int
    groups: int = 1
    transposed: bool = False


class Builder:
    """Collects nodes; ``quantized`` puts Q/DQ at the data and the weights of each convolution."""

    def __init__(self, quantized: bool = False) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self._quantized = quantized

    def constant(self, name: str, values: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        name = attributes.pop("name", f"{output}/{kind}")
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def conv(self, conv: Conv, data: str) -> str:
        shape = (conv.outputs, conv.inputs // conv.groups, 1, 1)
        if conv.transposed:
            shape = (conv.inputs, conv.outputs // conv.groups, 1, 1)
        if self._quantized:
            scale = self.constant(f"{conv.name}.scale", np.float32(0.02))
            zero = self.constant(f"{conv.name}.zero", np.int8(0))
            integers = self.constant(f"{conv.name}.integers", np.ones(shape, np.int8))
            weight = self.add("DequantizeLinear", [integers, scale, zero], f"{conv.name}.weight")
            data = self.add("QuantizeLinear", [data, scale, zero], f"{conv.name}.data.q")
            data = self.add("DequantizeLinear", [data, scale, zero], f"{conv.name}.data.dq")
        else:
            weight = self.constant(f"{conv.name}.weight", np.full(shape, 0.1, np.float32))
        kind = "ConvTranspose" if conv.transposed else "Conv"
        output = f"{conv.name}.out"
        return self.add(kind, [data, weight], output, name=conv.name, group=conv.groups)

    def save(
        self, path: Path, outputs: Sequence[str], shape: Sequence[int | str], kind: int
    ) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("images", kind, list(shape))],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            self.tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(path))
        return path


def save_chain(
    path: Path,
    convs: Sequence[Conv],
    *,
    quantized: bool = False,
    shape: Sequence[int | str] | None = None,
    kind: int = TensorProto.FLOAT,
) -> Path:
    """Convolutions one after another, a Relu behind each."""
    builder = Builder(quantized)
    data = "images"
    for conv in convs:
        data = builder.conv(conv, data)
        data = builder.add("Relu", [data], f"{conv.name}.relu")
    return builder.save(path, [data], shape or (1, convs[0].inputs, 8, 8), kind)


def save_detector(path: Path, *, width: int, classes: int, bins: int, quantized: bool) -> Path:
    """A stem and a head as YOLO's: class scores, and boxes through softmax and the DFL conv."""
    builder = Builder(quantized)
    stem = builder.conv(Conv("/model.0/Conv", 3, width), "images")
    hidden = builder.conv(Conv("/model.1/cv3.0/Conv", width, width), stem)
    scores = builder.conv(Conv("/model.1/cv3.1/Conv", width, classes), hidden)
    boxes = builder.conv(Conv("/model.1/cv2/Conv", width, 4 * bins), stem)
    shape = builder.constant("dfl.shape", np.array([1, 4, bins, 64], np.int64))
    split = builder.add("Reshape", [boxes, shape], "dfl.split")
    turned = builder.add("Transpose", [split], "dfl.turned", perm=[0, 2, 1, 3])
    shares = builder.add("Softmax", [turned], "dfl.shares", axis=1)
    distances = builder.conv(Conv("/model.1/dfl/Conv", bins, 1), shares)
    return builder.save(path, [scores, distances], (1, 3, 8, 8), TensorProto.FLOAT)
