"""Everything that a training needs to go on after a kill as if nothing had happened.

ultralytics' own resume restarts from the half-precision average of the weights and from another
shuffle, so a resumed run ends elsewhere than a straight one. Here an epoch starts from the saved
float32 state and from random numbers that only the seed and the epoch decide.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import init_seeds, unwrap_model

_OTHER_NUMBERS = 10_000_019  # between the seeds of two processes


def seed_epoch(trainer: BaseTrainer, seed: int, epoch: int) -> None:
    """Make shuffle and augmentation of one epoch a function of ``seed`` and ``epoch`` alone.

    Each of several processes has numbers of its own, so that they augment differently. Exact
    without loading workers, which is how ultralytics trains on a CPU; workers run ahead.
    """
    epoch_seed = seed * 100_003 + epoch + 1 + max(RANK, 0) * _OTHER_NUMBERS
    init_seeds(epoch_seed, deterministic=trainer.args.deterministic)
    loader = trainer.train_loader
    if loader.num_workers == 0:
        loader.reset()  # the old iterator would draw from the new seed before it ends
    loader.generator.manual_seed(epoch_seed)


def capture(trainer: BaseTrainer) -> dict[str, Any]:
    """The state after an epoch, as tensors and plain values."""
    return {
        "epoch": trainer.epoch,
        "finished": bool(trainer.stop),
        "model": unwrap_model(trainer.model).state_dict(),
        "ema": trainer.ema.ema.state_dict(),
        "ema_updates": trainer.ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        # None until an epoch's mAP counts
        "best_fitness": None if trainer.best_fitness is None else float(trainer.best_fitness),
        "stopper": {k: float(v) for k, v in _stopper(trainer).items()},
        "mosaic_buffers": trainer.buffers,  # one a process
        "batch": trainer.batch_size,
    }


def mosaic_buffer(trainer: BaseTrainer) -> list[int]:
    """Indices of the images read last; classifiers know no mosaic."""
    return [int(index) for index in getattr(trainer.train_loader.dataset, "buffer", [])]


def _stopper(trainer: BaseTrainer) -> dict[str, Any]:
    return {key: getattr(trainer.stopper, key) for key in ("best_fitness", "best_epoch")}


def restore(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    """Put ``trainer`` where ``capture`` found it; the next epoch is the one after."""
    model = unwrap_model(trainer.model)
    model.load_state_dict(state["model"])
    trainer.ema.ema.load_state_dict(state["ema"])
    trainer.ema.updates = state["ema_updates"]
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.best_fitness = state["best_fitness"]
    for key, value in state["stopper"].items():
        setattr(trainer.stopper, key, value)
    trainer.start_epoch = state["epoch"] + 1
    trainer.scheduler.last_epoch = trainer.start_epoch - 1
    if hasattr(model.criterion, "update"):  # heads whose loss weights move from epoch to epoch
        for _ in range(trainer.start_epoch):
            model.criterion.update()
    _refill_mosaic_buffer(trainer.train_loader.dataset, state["mosaic_buffers"][max(RANK, 0)])


def _refill_mosaic_buffer(dataset: Any, indices: list[int]) -> None:
    """Mosaic draws its partners from the images read last: read the same ones again."""
    for index in indices:
        dataset.load_image(index)


def write_state(state: dict[str, Any], path: Path) -> None:
    """Replace the file at ``path`` in one step: a kill leaves the old or the new state."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        file.write(buffer.getvalue())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)  # noqa: PTH105 - atomic on every platform


def read_state(path: Path) -> dict[str, Any] | None:
    """The state at ``path``, or None if there is none.

    State and best weights belong together: if a ``.pt`` beside it is damaged, all of them are
    removed with a warning, so that the training begins anew instead of failing for ever.
    """
    if not path.is_file():
        return None
    files = sorted(path.parent.glob("*.pt"))
    states = {file: _load(file) for file in files}
    damaged = [file for file, state in states.items() if state is None]
    if not damaged:
        return states[path]
    for file in files:
        file.unlink()
    warnings.warn(
        f"{damaged[0]} is damaged and was removed: this training begins anew", stacklevel=2
    )
    return None


def _load(file: Path) -> dict[str, Any] | None:
    """The mapping in ``file``; None if it is damaged."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):  # the machine's fault, not the file's
        raise
    except Exception:  # damaged bytes end in a dozen kinds of errors
        return None
    return state if isinstance(state, dict) and state else None


def best_weights(trainer: BaseTrainer) -> dict[str, torch.Tensor]:
    """Averaged weights of now, detached from the training."""
    ema: nn.Module = trainer.ema.ema
    return {key: value.detach().cpu().clone() for key, value in ema.state_dict().items()}
