"""Sparse training: a penalty that drives channels to zero before they are pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.trainer import TrainingExtension
from compress.prune.groups import ChannelGroup
from compress.prune.structure import PrunableModel

LOSS_NAME = "sparsity_loss"
STRENGTH_SPAN = 4.0  # alpha of DepGraph: the least channel of a group is pressed 2^4 times as hard
_TINY = 1e-12  # keeps the slope of a root at zero finite

Penalty = Callable[[nn.Module], Tensor]


def lasso(norms: Tensor) -> Tensor:
    """Sum of the norms of a group's channels, each weighed by how little it matters.

    ``sum(2^(alpha * (max - n) / (max - min)) * n)``; no gradient flows through the weights. The
    norm is not squared, so that a channel can reach zero.
    Source: Fang et al., DepGraph (2023), equations 5 and 6.

    Args:
        norms: (width,) L2 norms over all coupled slices.

    Returns:
        A scalar, 0 or larger.
    """
    fixed = norms.detach()
    spread = (fixed.max() - fixed.min()).clamp_min(_TINY)
    strength = 2 ** (STRENGTH_SPAN * (fixed.max() - fixed) / spread)
    return (strength * norms).sum()


def decayed(weight: float, final: float, epoch: int, epochs: int) -> float:
    """The weight in ``epoch`` (from 0): linear from ``weight`` to ``weight * final`` in the last.

    Args:
        weight: in the first epoch.
        final: share that is left in the last epoch, 0 to 1.
        epoch: from 0.
        epochs: of the whole run.
    """
    done = min(epoch / (epochs - 1), 1.0) if epochs > 1 else 0.0
    return weight * (1 - (1 - final) * done)


class Sparsity(TrainingExtension):
    """Adds a penalty on the channels that could be pruned to the training loss.

    It counts once for each image, as the loss does, and falls linearly over the run. Nothing of it
    is part of the model.
    """

    def __init__(self, kind: str, weight: float, final: float, epochs: int) -> None:
        """Set what is penalised and how hard.

        Args:
            kind: ``bn_scale`` (L1 on BatchNorm's scales; Liu et al., Network slimming, 2017) or
                ``group_lasso`` (norms of coupled channels; Fang et al., DepGraph, 2023).
            weight: of the penalty in the first epoch, beside the loss of one image.
            final: share of the weight in the last epoch, 0 to 1.
            epochs: of the whole run.
        """
        self.kind = kind
        self.schedule = [decayed(weight, final, epoch, epochs) for epoch in range(epochs)]
        self.penalty: Penalty | None = None

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        """Follow the model's channels once; training changes weights, not structure."""
        structure = PrunableModel(deepcopy(model).cpu())
        groups = [_on(group, device) for unit in structure.units for group in unit.groups]
        if self.kind == "bn_scale":
            self.penalty = _ScalePenalty(structure, groups)
        else:
            self.penalty = _LassoPenalty(structure, groups)

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        """Training loss plus the penalty under its own name."""
        assert self.penalty is not None  # the trainer prepares first
        return _SparsityCriterion(criterion, model, self.penalty, self.schedule)

    def loss_names(self) -> list[str]:
        """The penalty."""
        return [LOSS_NAME]

    def keeps_last(self) -> bool:
        """The sparsest epoch is wanted, which is not that of the best mAP."""
        return True


class _SparsityCriterion:
    """Called by ultralytics in place of its loss. No module: nothing of it reaches a checkpoint.

    ``update`` is called after each epoch, and as often on resume.
    """

    def __init__(
        self, base: Any, model: nn.Module, penalty: Penalty, schedule: Sequence[float]
    ) -> None:
        self.base = base
        self.model = model
        self.penalty = penalty
        self.schedule = schedule
        self.epoch = 0

    def update(self) -> None:
        self.epoch += 1
        if hasattr(self.base, "update"):
            self.base.update()

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, items = self.base(preds, batch)
        images = batch["img"]
        with torch.autocast(images.device.type, enabled=False):
            weight = self.schedule[min(self.epoch, len(self.schedule) - 1)]
            value = weight * self.penalty(self.model)
        # ultralytics' loss is a sum over the batch
        total = torch.cat([loss.reshape(-1), value.reshape(1) * images.shape[0]])
        return total, {**items, LOSS_NAME: value.detach()}


class _ScalePenalty:
    """Sum of the absolute gammas behind all channels that could be pruned."""

    def __init__(self, structure: PrunableModel, groups: Sequence[ChannelGroup]) -> None:
        self.structure = structure
        found: dict[str, list[Tensor]] = {}
        for member in (m for group in groups for m in group.members if m.side == "out"):
            found.setdefault(member.conv, []).append(member.positions)
        self.positions = {conv: torch.unique(torch.cat(parts)) for conv, parts in found.items()}

    def __call__(self, model: nn.Module) -> Tensor:
        scales = self.structure.norm_scales_of(model)
        parts = [scales[conv][at] for conv, at in self.positions.items() if conv in scales]
        return torch.cat(parts).abs().sum()


class _LassoPenalty:
    """``lasso`` of every group, over filters, their BatchNorm scales, and what reads them."""

    def __init__(self, structure: PrunableModel, groups: Sequence[ChannelGroup]) -> None:
        self.structure = structure
        self.groups = groups

    def __call__(self, model: nn.Module) -> Tensor:
        weights = self.structure.weights_of(model)
        squares = {
            (conv, side): weight.pow(2).sum(dims)
            for conv, weight in weights.items()
            for side, dims in (("out", (1, 2, 3)), ("in", (0, 2, 3)))
        }
        for conv, scale in self.structure.norm_scales_of(model).items():
            squares[conv, "out"] = squares[conv, "out"] + scale.pow(2)
        return torch.stack([self._of(group, squares) for group in self.groups]).sum()

    @staticmethod
    def _of(group: ChannelGroup, squares: dict[tuple[str, str], Tensor]) -> Tensor:
        values = torch.cat([squares[m.conv, m.side][m.positions] for m in group.members])
        index = torch.cat([member.channels for member in group.members])
        total = torch.zeros(group.width, device=values.device).index_add(0, index, values)
        return lasso((total + _TINY).sqrt())


def _on(group: ChannelGroup, device: torch.device) -> ChannelGroup:
    members = tuple(
        replace(m, positions=m.positions.to(device), channels=m.channels.to(device))
        for m in group.members
    )
    return replace(group, members=members)
