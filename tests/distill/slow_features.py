"""Losses on features, one number at a time in double precision: what the fast ones must equal."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def channels_of(image: Tensor) -> list[list[float]]:
    """Values of each channel, position by position."""
    return [channel.flatten().tolist() for channel in image.double()]


def slow_cwd(student: Tensor, teacher: Tensor, temperature: float) -> float:
    total = 0.0
    for ours, theirs in zip(channels_of(student), channels_of(teacher), strict=True):
        mine = softmax([value / temperature for value in ours])
        wanted = softmax([value / temperature for value in theirs])
        total += sum(t * math.log(t / o) for o, t in zip(mine, wanted, strict=True))
    return temperature**2 * total / len(student)


def slow_mimic(student: Tensor, teacher: Tensor) -> float:
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    return mean([(ours - theirs) ** 2 for ours, theirs in pairs])


def slow_pkd_of_a_batch(student: Tensor, teacher: Tensor) -> float:
    """Mean over channels of 1 - Pearson's correlation."""
    parts = []
    for channel in range(student.shape[1]):
        ours = student[:, channel].flatten().double()
        theirs = teacher[:, channel].flatten().double()
        parts.append(1 - torch.corrcoef(torch.stack([ours, theirs]))[0, 1].item())
    return mean(parts)


def slow_at(student: Tensor, teacher: Tensor) -> float:
    maps = []
    for image in (student, teacher):
        energy = [mean([v * v for v in column]) for column in zip(*channels_of(image), strict=True)]
        length = math.sqrt(sum(value * value for value in energy))
        maps.append([value / length for value in energy])
    return sum((ours - theirs) ** 2 for ours, theirs in zip(*maps, strict=True))


def slow_attention(student: Tensor, teacher: Tensor) -> float:
    differences = list(zip(*channels_of(student.double() - teacher.double()), strict=True))
    sizes = [mean([abs(v) for v in column]) for column in differences]
    squashed = [math.tanh(size / mean(sizes)) for size in sizes]
    squares = [mean([v * v for v in column]) for column in differences]
    weights = [value / mean(squashed) for value in squashed]
    return mean([w * s for w, s in zip(weights, squares, strict=True)])


def slow_fgd(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: float, shares: tuple[float, ...]
) -> float:
    def attentions(image: Tensor) -> tuple[list[float], list[float]]:
        rows = channels_of(image.abs())
        columns = list(zip(*rows, strict=True))
        spatial = softmax([mean(list(column)) / temperature for column in columns])
        channel = softmax([mean(row) / temperature for row in rows])
        return [v * len(columns) for v in spatial], [v * len(rows) for v in channel]

    spatial, channel = attentions(teacher)
    our_spatial, our_channel = attentions(student)
    foreground = mask.flatten().tolist()
    background = [float(value == 0) for value in foreground]
    parts = []
    for weights in (foreground, background):
        total = 0.0
        for c, (ours, theirs) in enumerate(
            zip(channels_of(student), channels_of(teacher), strict=True)
        ):
            for i, weight in enumerate(weights):
                total += weight * spatial[i] * channel[c] * (ours[i] - theirs[i]) ** 2
        parts.append(total / len(student) / sum(weights) if sum(weights) else 0.0)
    parts.append(
        mean([abs(a - b) for a, b in zip(our_spatial, spatial, strict=True)])
        + mean([abs(a - b) for a, b in zip(our_channel, channel, strict=True)])
    )
    return sum(share * part for share, part in zip(shares, parts, strict=True))
