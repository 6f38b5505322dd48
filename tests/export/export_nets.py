"""A net in all forms (PyTorch, simulated, float, both dialects), and a look into Q/DQ graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from small_nets import IMGSZ
from torch import Tensor, nn

from compress.models.exportable import export_metadata, exportable
from compress.quantize.calibration import calibrate
from compress.quantize.prepare import simulate
from compress.quantize.recording import rounded_tensors
from compress.quantize.simulation import Simulation
from export.dialects import DIALECTS, write_dialect
from export.float_onnx import export_float
from export.ranges import Ranges


@dataclass(frozen=True)
class Exported:
    """``net`` and everything that was made of it."""

    net: nn.Module
    simulation: Simulation
    ranges: Ranges
    float_onnx: Path
    onnxruntime: Path
    tensorrt: Path
    openvino: Path


def export_all(
    net: nn.Module,
    images: Tensor,
    folder: Path,
    float_layers: Sequence[str] = (),
    opset: int = 17,
    targets: Sequence[str] = ("onnxruntime",),
) -> Exported:
    """Simulate INT8 with ranges of ``images`` and write all files into ``folder``."""
    simulation = simulate(net, IMGSZ, float_layers, targets)
    calibrate(simulation, [images], "minmax", 100.0)
    ranges = simulation.ranges(targets, [0.0] * len(simulation.points))
    float_onnx = folder / "float.onnx"
    metadata = export_metadata(net, IMGSZ)
    export_float(exportable(net), IMGSZ, float_onnx, opset, metadata)
    files = {target: folder / f"{target}.onnx" for target in DIALECTS}
    for target, path in files.items():
        write_dialect(target, float_onnx, ranges, path)
    return Exported(net, simulation, ranges, float_onnx, **files)


class QdqGraph:
    """Who computes a tensor, who reads it, and what is stored."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(str(path)).graph
        self.nodes = list(graph.node)
        self.stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def of_type(self, operator: str) -> list[Any]:
        return [node for node in self.nodes if node.op_type == operator]

    def convs(self, ranges: Ranges) -> list[Any]:
        """The convolutions that are to be INT8."""
        modules = [f"/{name.replace('.', '/')}/Conv" for name in ranges.convs]
        plain = {module.replace("/", "") for module in modules}
        found = [n for n in self.of_type("Conv") if _plain(n.name) in plain]
        assert len(found) == len(ranges.convs)
        return found

    def dequantized(self, tensor: str) -> tuple[Any, Any, Any]:
        """What a DequantizeLinear reads: stored integers or None, scale, zero point."""
        node = self.producer[tensor]
        assert node.op_type == "DequantizeLinear"
        source, scale, zero = node.input
        return self.stored.get(source), self.stored[scale], self.stored[zero]


def _plain(node_name: str) -> str:
    """``/model.22/cv2.0/cv2.0.1/conv/Conv`` -> ``model.22.cv2.0.1.convConv``, without slashes."""
    path: list[str] = []
    for part in node_name.split("/")[1:]:
        if path and part.startswith(path[-1] + "."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path[:-1]).replace(".", "") + path[-1]


def steps_apart(
    simulation: Simulation, path: Path, image: Tensor, optimize: bool
) -> dict[str, int]:
    """Tensor -> largest difference of simulation and file in steps, given identical inputs.

    The graph is cut at each point: what is computed there goes out, and what is read there comes
    from the simulation, so that differences do not add up.
    """
    recorded = rounded_tensors(simulation, image)
    integers = {tensor: values for tensor, (values, _) in recorded.items()}
    model = onnx.load(str(path))
    feeds = {model.graph.input[0].name: image.numpy()}
    made: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in integers:
            tensor, read = node.input[0], node.output[0]
            node.output[0] = made[tensor] = f"{read}_made"
            shape, kind = integers[tensor].shape, TensorProto.UINT8
            model.graph.output.append(helper.make_tensor_value_info(made[tensor], kind, shape))
            model.graph.input.append(helper.make_tensor_value_info(read, kind, shape))
            feeds[read] = integers[tensor]
    assert made.keys() == integers.keys()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results = session.run(list(made.values()), feeds)
    return {
        tensor: int(np.abs(result.astype(int) - integers[tensor]).max())
        for tensor, result in zip(made, results, strict=True)
    }
