"""From a float model to its calibrated simulation: placement on the graph, then ranges."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import Tensor, nn

from compress.models.exportable import exportable, fused_copy
from compress.models.inspect import head_outputs
from compress.quantize.calibration import calibrate
from compress.quantize.simulation import Simulation
from export.float_onnx import export_float
from export.placement import Placement, find_placement


@dataclass(frozen=True)
class Prepared:
    """A fused copy of the model that computes in fake INT8, and the share each range clips."""

    simulation: Simulation
    clipped: list[float]

    @property
    def model(self) -> nn.Module:
        """The fused model under simulation."""
        return self.simulation.model


def place(model: nn.Module, imgsz: int, float_layers: Sequence[str]) -> Placement:
    """Quantization groups of the model's exported graph; the head's outputs stay float."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_float(exportable(model), imgsz, path)
        graph = onnx.load(str(path))
    return find_placement(graph, [*head_outputs(model), *float_layers])


def prepare(
    model: nn.Module,
    imgsz: int,
    float_layers: Sequence[str],
    batches: Sequence[Tensor],
    method: str,
    percentile: float,
) -> Prepared:
    """Simulate INT8 on a fused copy of ``model``, with ranges found on ``batches``."""
    simulation = Simulation(fused_copy(model), place(model, imgsz, float_layers))
    return Prepared(simulation, calibrate(simulation, batches, method, percentile))
