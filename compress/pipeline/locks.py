"""Locks between processes that end with their holder, even with one that was killed."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from compress.pipeline.files import read_json, write_json


class Busy(Exception):
    """Another process holds the lock; ``holder`` says which."""

    def __init__(self, holder: str) -> None:
        """Keep ``holder``, such as ``process 4711 on board-3``."""
        self.holder = holder
        super().__init__(holder)


@contextmanager
def hold(file: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock ``file`` inside the block.

    Where another process holds it: with ``waiting`` call that with the holder, then wait for it.

    Raises:
        Busy: it is held, and there is no ``waiting``.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = _holder(file)
        if waiting is None:
            raise Busy(holder) from None
        waiting(holder)
        lock.acquire()
    try:
        write_json(_note(file), {"pid": os.getpid(), "host": platform.node()})
        yield
    finally:
        lock.release()


def _note(file: Path) -> Path:
    return file.with_suffix(".json")


def _holder(file: Path) -> str:
    note = read_json(_note(file))
    return f"process {note['pid']} on {note['host']}" if "pid" in note else "another process"
