"""Train the fake quantizers' scales beside the weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from compress.models.trainer import TrainingExtension
from compress.quantize.simulation import QUANTIZERS


class ScaleTraining(TrainingExtension):
    """Gives the scales an optimizer group of their own: decay would shrink every range."""

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """One group with all scales."""
        scales = list(getattr(model, QUANTIZERS).parameters())
        return [{"params": scales, "lr": lr, "weight_decay": 0.0, "param_group": "scale"}]
