"""What becomes of the fake quantizers' scales while the weights are trained."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from compress.models.trainer import TrainingExtension, TrainingRun
from compress.quantize.fake_quantizer import FakeQuantizer, RangeMode
from compress.quantize.noise import WeightNoise
from compress.quantize.simulation import QUANTIZERS, Simulation

MOVING_SHARE = 0.8  # of the epochs; then moving ranges are frozen, and the weights settle on them


def set_up_training(
    simulation: Simulation, ranges: RangeMode, learned_weights: bool, noise: WeightNoise
) -> None:
    """Say how a calibrated simulation is trained.

    Args:
        simulation: calibrated; ranges that are known for certain (a sigmoid's) stay fixed.
        ranges: what becomes of the activations' ranges, see ``FakeQuantizer``.
        learned_weights: whether the weights' scales are parameters.
        noise: what a step does to the weights.
    """
    for _, activation in simulation.groups:
        if activation.mode != "fixed":
            activation.mode = ranges
    for name, weight in simulation.weights.items():
        weight.noise = noise
        if learned_weights:
            weight.learn_scale(simulation.convolution(name).weight)


class ScaleTraining(TrainingExtension):
    """Trains learned scales in an optimizer group of their own, and moves moving ranges.

    Decay would shrink every range.
    """

    def __init__(self) -> None:
        self.moving: list[FakeQuantizer] = []
        self.frozen_from = 1

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """One group with all scales that are learned."""
        scales = learned_scales(getattr(model, QUANTIZERS))
        group = {"params": scales, "lr": lr, "weight_decay": 0.0, "param_group": "scale"}
        return [group] if scales else []

    def begin(self, run: TrainingRun) -> None:
        """Remember how long ranges move."""
        self.frozen_from = max(int(run.epochs * MOVING_SHARE), 1)

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        """The same loss; moving ranges move behind each batch."""
        quantizers = getattr(model, QUANTIZERS).activations
        self.moving = [quantizer for quantizer in quantizers if quantizer.mode == "ema"]
        return _MovingRanges(criterion, self.moving) if self.moving else criterion

    def start_epoch(self, epoch: int) -> None:
        """Freeze moving ranges for the last part of the run."""
        for quantizer in self.moving:
            quantizer.forget()
            quantizer.moving = epoch < self.frozen_from


def learned_scales(quantizers: nn.Module) -> list[nn.Parameter]:
    """The parameters that the loss has a gradient for."""
    fixed = {
        id(module.log_scale)
        for module in quantizers.modules()
        if isinstance(module, FakeQuantizer) and module.mode != "learned"
    }
    return [parameter for parameter in quantizers.parameters() if id(parameter) not in fixed]


class _MovingRanges:
    """Called by ultralytics in place of its loss. No module: nothing of it reaches a checkpoint."""

    def __init__(self, base: Any, quantizers: list[FakeQuantizer]) -> None:
        self.base = base
        self.quantizers = quantizers
        if hasattr(base, "update"):
            self.update = base.update

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        for quantizer in self.quantizers:
            quantizer.move()
        loss, items = self.base(preds, batch)
        return loss, items
