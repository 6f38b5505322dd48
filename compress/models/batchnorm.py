"""BatchNorm statistics measured anew: after a cut the old ones belong to another net."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.models.train_samples import torch_device, train_samples
from compress.progress import Progress

BATCH = 16


def reestimate(
    model: nn.Module,
    data: Path,
    imgsz: int,
    images: int,
    seed: int,
    device: str,
    progress: Progress,
) -> nn.Module:
    """A copy of ``model`` whose BatchNorms have plain averages as their running statistics.

    The averages are over batches of ``images`` images of the train split, drawn by ``seed`` and not
    augmented. Weights, and statistics of layers that no image reaches, are as before.

    Args:
        model: a float model.
        data: the data yaml.
        imgsz: side of the square images in pixels.
        images: how many images (all, if there are fewer); 0 changes nothing.
        seed: decides which images are taken.
        device: as the recipe names it.
        progress: shows a bar.
    """
    result = deepcopy(model)
    if images == 0:
        return result
    samples = train_samples(model, data, imgsz, images, seed)
    if samples.count(1) < 2:  # one image has no statistics where maps are one cell wide
        return result
    work = deepcopy(model).float().to(torch_device(device)).eval()
    for norm in _norms(work).values():
        norm.reset_running_stats()
        norm.momentum = None  # torch then averages over all batches alike
        norm.train()
    with torch.no_grad(), progress.task("BatchNorm statistics", samples.count(BATCH)) as bar:
        for batch in samples.batches(BATCH, torch_device(device)):
            work(batch["img"])
            bar.advance()
    measured = _norms(work)
    for name, norm in _norms(result).items():
        if measured[name].num_batches_tracked > 0:
            norm.running_mean.copy_(measured[name].running_mean)
            norm.running_var.copy_(measured[name].running_var)
    return result


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }
