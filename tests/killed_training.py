"""A training that ends in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from compress.progress import Task

# a short training with all that a resume must put back: mosaic, its closing, warm-up
ARGUMENTS = {
    "epochs": 3,
    "batch": 8,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "mosaic": 1.0,
    "mixup": 0.3,
    "close_mosaic": 1,
    "warmup_epochs": 1,
}
BATCHES = 2  # an epoch


class Killed(BaseException):
    """No error that anything may catch."""


class KilledAt:
    """Progress that does ``end`` when this many batches were counted."""

    def __init__(self, batch: int, end: Callable[[], None]) -> None:
        self.left = batch
        self.end = end

    def say(self, message: str) -> None:
        del message

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        del title, total
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        del note
        self.left -= steps
        if self.left == 0:
            self.end()


def killed() -> None:
    raise Killed
