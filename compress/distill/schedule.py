"""What changes from epoch to epoch: weights, temperatures, phases. Pure functions of the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Source = Literal["features", "outputs", "labels"]


@dataclass(frozen=True)
class Weight:
    """A weight over the epochs of a run, counted from 0.

    Outside of ``start`` to ``stop`` (not included; None: the end) it is 0. Inside it goes from
    ``value`` to ``value * final``, reached in the last epoch before ``stop``. With ``with_mosaic``
    it stops where mosaic does.
    """

    value: float
    shape: Literal["constant", "linear", "cosine"] = "constant"
    final: float = 0.0
    start: int = 0
    stop: int | None = None
    with_mosaic: bool = False

    def at(self, epoch: int, epochs: int, plain_from: int) -> float:
        """The weight in ``epoch`` of a run of ``epochs``, without mosaic from ``plain_from``."""
        stop = epochs if self.stop is None else min(self.stop, epochs)
        stop = min(stop, plain_from) if self.with_mosaic else stop
        if not self.start <= epoch < stop:
            return 0.0
        if self.shape == "constant":
            return self.value
        done = (epoch - self.start) / max(stop - self.start - 1, 1)
        left = 1 - done if self.shape == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.value * (self.final + (1 - self.final) * left)


@dataclass(frozen=True)
class Temperature:
    """A temperature that falls by ``drop`` every ``every`` epochs, never below ``least``."""

    start: float
    drop: float = 0.0
    every: int = 10
    least: float = 1.0

    def at(self, epoch: int) -> float:
        """The temperature ``epoch`` epochs after the loss began, above 0."""
        if not self.drop:
            return self.start
        return max(self.least, self.start - self.drop * (max(epoch, 0) // self.every))


@dataclass(frozen=True)
class Phase:
    """``epochs`` that learn from some sources only; ``lr`` is their learning rate, if not None."""

    epochs: int
    learn: frozenset[Source]
    lr: float | None = None


@dataclass(frozen=True)
class EpochPlan:
    """What counts in one epoch: the ground truth's weight, and weight and temperature of each term.

    ``teaches`` is false where no teacher needs to be asked.
    """

    labels: float
    weights: tuple[float, ...]
    temperatures: tuple[float | None, ...]
    teaches: bool

    @property
    def counting(self) -> tuple[bool, ...]:
        """Which of them count: the ground truth, then each term."""
        return (self.labels > 0, *(weight > 0 for weight in self.weights))


def phase_at(phases: Sequence[Phase], epoch: int) -> Phase | None:
    """The phase that ``epoch`` is in; the last one beyond the end; None without phases."""
    for phase in phases:
        if epoch < phase.epochs:
            return phase
        epoch -= phase.epochs
    return phases[-1] if phases else None
