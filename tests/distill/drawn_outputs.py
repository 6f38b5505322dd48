"""Drawn raw outputs and features, for tests of losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compress.models.raw_outputs import RawOutputs

LEVELS = ((8, 4, 5), (16, 2, 3))  # stride, rows, columns
CELLS = sum(rows * columns for _, rows, columns in LEVELS)


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def draw_outputs(
    images: int = 2,
    classes: int = 3,
    bins: int = 4,
    seed: int = 0,
    scale: float = 1.0,
    levels: Sequence[tuple[int, int, int]] = LEVELS,
) -> RawOutputs:
    """Raw outputs of all tasks at once: 4 mask coefficients, 2 keypoints of 3 values, an angle."""
    cells = sum(rows * columns for _, rows, columns in levels)
    boxes = draw(images, 4 * bins, cells, seed=seed + 1, scale=scale)
    extras = {
        "masks": draw(images, 4, cells, seed=seed + 2, scale=scale),
        "prototypes": draw(images, 4, 6, 6, seed=seed + 3, scale=scale),
        "keypoints": draw(images, 6, cells, seed=seed + 4, scale=scale),
        "angle": draw(images, 1, cells, seed=seed + 5, scale=scale),
    }
    points = [
        (column + 0.5, row + 0.5)
        for _, rows, columns in levels
        for row in range(rows)
        for column in range(columns)
    ]
    strides = [stride for stride, rows, columns in levels for _ in range(rows * columns)]
    return RawOutputs(
        draw(images, classes, cells, seed=seed, scale=scale),
        boxes.abs() + 0.5 if bins == 1 else boxes,
        bins,
        torch.tensor(points),
        torch.tensor(strides, dtype=torch.float32),
        extras,
    )


def tensors_of(outputs: RawOutputs) -> dict[str, Tensor]:
    """All predictions by name."""
    return {"scores": outputs.scores, "boxes": outputs.boxes, **outputs.extras}


def with_tensors(outputs: RawOutputs, tensors: dict[str, Tensor]) -> RawOutputs:
    """``outputs`` with other predictions."""
    extras = {name: tensors[name] for name in outputs.extras}
    return replace(outputs, scores=tensors["scores"], boxes=tensors["boxes"], extras=extras)


def trainable(outputs: RawOutputs) -> RawOutputs:
    """A copy whose predictions collect gradients."""
    copies = {k: v.detach().clone().requires_grad_(True) for k, v in tensors_of(outputs).items()}
    return with_tensors(outputs, copies)
