"""A net under simulation, ready to run."""

from __future__ import annotations

from collections.abc import Sequence

from small_nets import IMGSZ
from torch import Tensor, nn

from compress.quantize.calibration import calibrate
from compress.quantize.prepare import simulate
from compress.quantize.simulation import Simulation


def simulated(
    net: nn.Module, images: Tensor, float_layers: Sequence[str] = (), method: str = "minmax"
) -> Simulation:
    """A fused copy of ``net`` in fake INT8, its ranges taken from ``images``."""
    simulation = simulate(net, IMGSZ, float_layers)
    calibrate(simulation, [images], method, 99.9)
    return simulation
