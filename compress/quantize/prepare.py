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
from export.placement import Placement, find_placement


def place(model: nn.Module, imgsz: int, float_layers: Sequence[str]) -> Placement:
    """Quantization groups of the model's exported graph; the head's outputs stay float."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_float(exportable(model), imgsz, path)
        graph = onnx.load(str(path))
    return find_placement(graph, [*head_outputs(model), *float_layers])


def simulate(model: nn.Module, imgsz: int, float_layers: Sequence[str]) -> Simulation:
    """A fused copy of ``model`` that computes in fake INT8; its ranges are still to be set."""
    return Simulation(fused_copy(model), place(model, imgsz, float_layers))
