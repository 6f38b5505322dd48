"""Ctrl-C in the middle of a measurement: what was measured until then is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def stop_at_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside the block, a signal to end is not an exception but an answer: whether one came.

    The second one is what it always was, so that a call that hangs can be left. Threads other than
    the main one get no signals, and the answer there is always no.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        del number, frame
        told.set()
        put_back()

    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def put_back() -> None:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python, and not ours to change
                signal.signal(number, handler)

    for number, handler in before.items():
        if handler not in (None, signal.SIG_IGN):
            signal.signal(number, note)
    try:
        yield told.is_set
    finally:
        put_back()
