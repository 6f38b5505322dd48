"""Checkpoints in the bench: the net as stock ultralytics would run it, BatchNorm folded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.entries import GPUS
from bench.runtimes.base import Runtime
from bench.settings import Settings

if TYPE_CHECKING:
    from torch import nn


def load_torch(path: Path, settings: Settings) -> Runtime:
    """A ``.pt`` or a TorchScript file in PyTorch, to be entered."""
    from bench.runtimes.torch_module import TorchModule

    gpu = settings.index if settings.device in GPUS else None
    load = _checkpoint if path.suffix == ".pt" else None
    return TorchModule(path, settings.threads, settings.shape, settings.seed, gpu, load)


def _checkpoint(path: Path) -> nn.Module:
    """Fused, and giving the decoded boxes alone: the head's raw maps are of use in training only.

    Raises:
        CompressError: the file is damaged, names foreign code, or holds no YOLO model.
    """
    from compress.models.checkpoint import load_checkpoint
    from compress.models.exportable import fused_copy
    from compress.models.inspect import model_head

    model = fused_copy(load_checkpoint(path))
    model_head(model).export = True
    return model
