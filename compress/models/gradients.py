"""Gradients of the training loss on images of the train split: what taylor and hessian score by."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from compress.errors import CompressError
from compress.models.tasks import task_of
from compress.models.train_samples import torch_device, train_samples
from compress.progress import Progress


def loss_gradients(
    model: nn.Module,
    data: Path,
    imgsz: int,
    batches: int,
    batch: int,
    seed: int,
    device: str,
    squared: bool,
    progress: Progress,
) -> nn.Module:
    """A copy of ``model`` whose parameters hold gradients of its stock training loss.

    They are means over ``batches * batch`` images of the train split (all, if there are fewer),
    drawn by ``seed`` and not augmented. BatchNorm takes its running statistics: the net is scored
    as it is deployed, and images do not see each other. ``model`` itself is left untouched.

    Args:
        model: a float model; half precision is computed in float32.
        data: the data yaml.
        imgsz: side of the square images in pixels.
        batches: number of batches.
        batch: images a batch.
        seed: decides which images are taken.
        device: as the recipe names it.
        squared: the mean of squared gradients of single images (the diagonal of the empirical
            Fisher matrix) in place of the mean gradient; takes one pass an image.
        progress: shows a bar.

    Returns:
        A model of the same structure on the CPU; parameters that the loss does not reach hold 0.

    Raises:
        CompressError: if a gradient is NaN or infinite.
    """
    samples = train_samples(model, data, imgsz, batches * batch, seed)
    size = 1 if squared else batch
    work = _differentiable(model, samples.arguments, torch_device(device))
    sums = [torch.zeros_like(parameter) for parameter in work.parameters()]
    with progress.task("gradients of the loss", samples.count(size)) as bar:
        for part in samples.batches(size, torch_device(device)):
            for total, gradient in zip(sums, _gradients(work, part), strict=True):
                total += gradient.pow(2) if squared else gradient
            bar.advance()
    return _holding(model, [total / len(samples.indices) for total in sums])


def _differentiable(model: nn.Module, arguments: Any, device: torch.device) -> nn.Module:
    """A copy that gives what a training loss wants, with all else as in inference."""
    work = deepcopy(model).float().to(device).train().requires_grad_(True)
    for module in work.modules():
        if isinstance(module, (_BatchNorm, _DropoutNd)):
            module.eval()
    work.args, work.criterion = arguments, None
    return work


def _gradients(work: nn.Module, batch: dict[str, Any]) -> Iterator[Tensor]:
    """Gradients of the loss summed over the images of ``batch``."""
    work.zero_grad(set_to_none=True)
    loss = work.loss(batch)[0].sum()
    if task_of(work).name == "classify":
        loss = loss * len(batch["img"])  # alone among ultralytics' losses it is a mean
    loss.backward()
    for parameter in work.parameters():
        yield torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _holding(model: nn.Module, values: list[Tensor]) -> nn.Module:
    holder = deepcopy(model).float().cpu().eval().requires_grad_(False)
    for (name, parameter), value in zip(holder.named_parameters(), values, strict=True):
        if not torch.isfinite(value).all():
            raise CompressError(
                f"prune: the gradient of '{name}' is NaN or infinite on images of the train split. "
                "The checkpoint is broken; train it again with a lower learning rate."
            )
        parameter.copy_(value)
    return holder
