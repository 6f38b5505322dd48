"""From a float model to its simulation, placed as its exported graph demands."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
from torch import nn

from compress.models.exportable import exportable, fused_copy
from compress.models.inspect import head_outputs
from compress.quantize.simulation import Simulation
from export.float_onnx import export_float
from export.placement import Placement, conv_names, find_placement


def float_graph(model: nn.Module, imgsz: int) -> onnx.ModelProto:
    """The exported graph that placements are found on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_float(exportable(model), imgsz, path)
        return onnx.load(str(path))


def place(
    model: nn.Module,
    imgsz: int,
    float_layers: Sequence[str],
    targets: Sequence[str] = ("onnxruntime",),
    quantize_head: bool = False,
) -> Placement:
    """Quantization groups of the model's exported graph.

    Args:
        model: a float model, not fused.
        imgsz: side of the image in pixels.
        float_layers: patterns of module names whose convolutions stay float.
        targets: runtimes whose rounding is placed.
        quantize_head: whether the head's outputs are INT8, too.
    """
    graph = float_graph(model, imgsz)
    kept = [*float_layers, *([] if quantize_head else head_convs(model, graph))]
    return find_placement(graph, kept, targets)


def head_convs(model: nn.Module, graph: onnx.ModelProto) -> list[str]:
    """The convolutions of ``graph`` that give the head's outputs; an end-to-end head drops some."""
    known = set(conv_names(graph))
    return [name for name in head_outputs(model) if name in known]


def simulate(
    model: nn.Module,
    imgsz: int,
    float_layers: Sequence[str],
    targets: Sequence[str] = ("onnxruntime",),
    quantize_head: bool = False,
    weight_bits: int = 8,
) -> Simulation:
    """A fused copy of ``model`` that computes in fake INT8; its ranges are still to be set."""
    placement = place(model, imgsz, float_layers, targets, quantize_head)
    return Simulation(fused_copy(model), placement, weight_bits)
