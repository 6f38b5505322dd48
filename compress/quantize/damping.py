"""A penalty on weights that swing between two integers late in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.trainer import TrainingExtension, TrainingRun
from compress.quantize.fake_quantizer import WeightQuantizer
from compress.quantize.simulation import QUANTIZERS

LOSS_NAME = "damping_loss"


def swing(weight: Tensor, quantizer: WeightQuantizer) -> Tensor:
    """Squared distance of each weight to the middle of its step: a mean a filter, summed.

    Only the weights get a gradient; one that is clipped gets none.
    Source: Nagel et al., Overcoming oscillations in quantization-aware training (2022).

    Args:
        weight: (out, in, kh, kw).
        quantizer: what rounds it.

    Returns:
        A scalar, 0 or larger.
    """
    with torch.no_grad():
        rounded = quantizer.rounded(weight)
        end = (quantizer.qmax * quantizer.scale(weight)).reshape(-1, 1, 1, 1)
    clipped = torch.minimum(torch.maximum(weight, -end), end)
    return (rounded - clipped).square().mean((1, 2, 3)).sum()


def risen(weight: float, start: float, epoch: int, epochs: int) -> float:
    """The penalty's weight in ``epoch`` (from 0): a half-cosine from 0 to ``weight``.

    Args:
        weight: in the last epoch.
        start: share of the run that is left alone, 0 to below 1.
        epoch: from 0.
        epochs: of the whole run.
    """
    first = int(start * epochs)
    done = (epoch - first + 1) / (epochs - first)
    return weight * (1 - math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2


class Damping(TrainingExtension):
    """Adds the penalty to the training loss, once for each image as the loss does."""

    def __init__(self, weight: float, start: float, convs: Sequence[str]) -> None:
        """Set how hard it presses.

        Args:
            weight: in the last epoch, beside the loss of one image.
            start: share of the run without it.
            convs: names of the convolutions whose weights are rounded, in the simulation's order.
        """
        self.weight = weight
        self.start = start
        self.convs = list(convs)
        self.epochs = 1
        self.criterion: _DampingCriterion | None = None

    def begin(self, run: TrainingRun) -> None:
        """Remember the length of the run."""
        self.epochs = run.epochs

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        """Training loss plus the penalty under its own name."""
        self.criterion = _DampingCriterion(criterion, model, self.convs)
        return self.criterion

    def start_epoch(self, epoch: int) -> None:
        """The penalty's weight in this epoch."""
        assert self.criterion is not None
        self.criterion.weight = risen(self.weight, self.start, epoch, self.epochs)

    def loss_names(self) -> list[str]:
        """The penalty."""
        return [LOSS_NAME]

    def close(self) -> None:
        """Let go of the training."""
        self.criterion = None


class _DampingCriterion:
    """Called by ultralytics in place of its loss. No module: nothing of it reaches a checkpoint."""

    def __init__(self, base: Any, model: nn.Module, convs: Sequence[str]) -> None:
        self.base = base
        quantizers = getattr(model, QUANTIZERS).weights
        self.pairs = [
            (model.get_submodule(name), quantizer)
            for name, quantizer in zip(convs, quantizers, strict=True)
        ]
        self.weight = 0.0
        if hasattr(base, "update"):
            self.update = base.update

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, items = self.base(preds, batch)
        value = loss.new_zeros(())
        if self.weight > 0:
            with torch.autocast(loss.device.type, enabled=False):
                swings = [swing(conv.weight, quantizer) for conv, quantizer in self.pairs]
                value = self.weight * torch.stack(swings).sum()
        # ultralytics' loss is a sum over the batch
        total = torch.cat([loss.reshape(-1), value.reshape(1) * batch["img"].shape[0]])
        return total, {**items, LOSS_NAME: value.detach()}
