"""The integers that a simulated model computes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress.quantize.fake_quantizer import FakeQuantizer
from compress.quantize.simulation import Simulation
from export.ranges import QMAX, QMIN

Integers = npt.NDArray[np.uint8]


def rounded_tensors(simulation: Simulation, image: Tensor) -> dict[str, tuple[Integers, int]]:
    """Tensor -> its integers (0..255) and its zero point, at every point, for one image.

    Args:
        simulation: with its ranges set.
        image: (1, 3, H, W) in [0, 1].
    """
    found: dict[str, tuple[Integers, int]] = {}
    hooks = [(point, hook) for group in simulation.points for point, hook in group]
    for point, hook in hooks:
        hook.record = _Recorder(point.tensor, hook.quantizer, found)
    simulation.model.eval()
    try:
        with torch.no_grad():
            simulation.model(image)
    finally:
        for _, hook in hooks:
            hook.record = None
    return found


class _Recorder:
    """Keeps what one point gives."""

    def __init__(
        self, tensor: str, quantizer: FakeQuantizer, found: dict[str, tuple[Integers, int]]
    ) -> None:
        self.tensor, self.quantizer, self.found = tensor, quantizer, found

    def __call__(self, rounded: Tensor) -> None:
        zero_point = int(self.quantizer.zero_point)
        integers = torch.round(rounded / self.quantizer.scale.detach()) + zero_point
        values = integers.clamp(QMIN, QMAX).to(torch.uint8).cpu().numpy()
        self.found[self.tensor] = values, zero_point
