"""What a stage may add to a training: losses, optimizer groups, images, state for resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class TrainingRun:
    """What an extension may know of the training it is part of.

    ``batches`` an epoch, ``plain_from`` is the first epoch without mosaic (``epochs`` if there is
    none), ``average`` gives the moving average of the student, ``arguments`` are ultralytics'.
    ``rank`` is the number of this process among ``ranks`` that train together, each on its share
    of every batch. ``asked_batch`` is the batch that was asked for; ``arguments.batch`` is smaller
    where that did not fit into memory.
    """

    epochs: int
    batches: int
    plain_from: int
    device: torch.device
    average: Callable[[], nn.Module]
    arguments: Any
    rank: int = 0
    ranks: int = 1
    asked_batch: int = 0


class TrainingExtension:
    """What a stage may add to a training. Every method does nothing by default.

    Where several processes train together, each has a copy of its own: it must be picklable, its
    modules start as those of the first process, gradients of its optimizer groups are averaged.
    """

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        """Called once, on the device, before the optimizer is built."""

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of its own; parameters named here leave the standard groups."""
        return []

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        """Take the detection loss, give the loss to train with."""
        return criterion

    def begin(self, run: TrainingRun) -> None:
        """Called once, before ``wrap_criterion``, when optimizer, data and average are there."""

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch (counted from 0), after its random numbers are seeded.

        The first epoch begins anew, after this call, where a batch did not fit into memory.
        """

    def extend_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add to a batch as the loader gives it: images (N, 3, H, W) of whole numbers."""
        return batch

    def loss_names(self) -> list[str]:
        """Names of the losses that ``wrap_criterion`` adds."""
        return []

    def curves(self) -> dict[str, float]:
        """More of the last epoch that is worth a curve."""
        return {}

    def learning_rate(self, epoch: int) -> float | None:
        """The learning rate of an epoch, where it is not the schedule's."""
        return None

    def counts(self, epoch: int) -> bool:
        """Whether this epoch's mAP means something, so that its weights may be the best."""
        return True

    def largest_norm(self) -> float | None:
        """The norm that gradients are clipped to, where it is not ultralytics'."""
        return None

    def keeps_last(self) -> bool:
        """Whether the last epoch's weights are wanted in place of those that validated best."""
        return False

    def close(self) -> None:
        """Take off hooks. Called on every way out, even where nothing has begun."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values to save for resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of ``state_dict``: replaces what there is.

        Also called before each epoch in all processes but the first, with the first one's state.
        """
