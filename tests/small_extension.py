"""The smallest thing that a training can be extended by: one more loss, with a layer of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from compress.models.trainer import TrainingExtension, TrainingRun

LAYER = 9  # whose features are watched
LOSS = "mimic_loss"


def hooks_of(model: nn.Module) -> list[str]:
    """Names of the modules that anything listens to."""
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    ]


class Mimic(TrainingExtension):
    """A projector, outside the student, learns to tell the shrunken image from its features."""

    def __init__(self, weight: float = 1.0, left_at: Path | None = None) -> None:
        """``left_at`` is a folder for what each process ends with."""
        self.weight = weight
        self.left_at = left_at
        self.projector: nn.Module | None = None
        self.features: list[Tensor] = []
        self.handle: Any = None
        self.batches: list[tuple[int, ...]] = []  # shapes of the images seen
        self.closed = 0

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        channels = model.model[LAYER].cv2.conv.out_channels
        self.projector = nn.Conv2d(channels, 3, 1).to(device)
        self.model = model

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        params = list(self.projector.parameters())
        return [{"params": params, "lr": lr, "weight_decay": 0.0, "param_group": "projector"}]

    def begin(self, run: TrainingRun) -> None:
        self.run = run

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.features.clear()  # of a batch that did not fit into memory

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        self.handle = model.model[LAYER].register_forward_hook(self._listen)
        return _Criterion(self, criterion)

    def _listen(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.features.append(output)

    def loss(self, images: Tensor) -> Tensor:
        """The sum over the images, as ultralytics' losses are."""
        (features,) = self.features
        target = adaptive_avg_pool2d(images, features.shape[2:])
        error = (self.projector(features) - target).square().mean()
        return self.weight * error * len(images)

    def loss_names(self) -> list[str]:
        return [LOSS]

    def close(self) -> None:
        self.closed += 1
        if self.handle is not None:
            self.handle.remove()
        if self.left_at is not None:
            left = {"projector": self.projector.state_dict(), "student": self.model.state_dict()}
            torch.save(left, self.left_at / f"{self.run.rank}.left")

    def state_dict(self) -> dict[str, Any]:
        return {"projector": self.projector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.projector.load_state_dict(state["projector"])


class Alone(Mimic):
    """Its loss is the only one, a plain sum over images, and its projector starts known."""

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().prepare(model, device, imgsz)

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        return super().wrap_criterion(model, lambda *given: _nothing(*criterion(*given)))


def _nothing(loss: Tensor, items: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    return loss * 0, items


class BreaksOnOne(Mimic):
    """Its loss is NaN from epoch 2 on, in the second process alone."""

    def loss(self, images: Tensor) -> Tensor:
        value = super().loss(images)
        broken = self.run.rank == 1 and self.epoch == 1
        return value * float("nan") if broken else value


class _Criterion:
    def __init__(self, owner: Mimic, base: Any) -> None:
        self.owner = owner
        self.base = base

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        self.owner.batches.append(tuple(batch["img"].shape))
        loss, items = self.base(preds, batch)
        value = self.owner.loss(batch["img"])
        self.owner.features.clear()
        items = {**items, LOSS: value.detach() / len(batch["img"])}
        return torch.cat([loss.reshape(-1), value.reshape(1)]), items
