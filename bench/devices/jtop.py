"""jetson-stats, whose service runs as root and so knows clocks that a user may not read."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

_PATIENCE = 2.0


@dataclass(frozen=True)
class JtopLook:
    """What the service told last."""

    memory_mhz: float | None
    dla_mhz: tuple[float, ...]
    milliwatts: Mapping[str, float]


def has_jtop() -> bool:
    """Whether the client can be imported; the service may still be down."""
    return find_spec("jtop") is not None


@contextmanager
def jtop_looks(wait: float = _PATIENCE) -> Iterator[Callable[[], JtopLook | None]]:
    """Listen to the service inside the block; calls give its latest word, None before one.

    The block begins with the first word, or once the client gave up, or after ``wait`` seconds.
    A client that hangs does not keep the block from ending.
    """
    latest: list[JtopLook] = []
    heard, ended = threading.Event(), threading.Event()

    def listen() -> None:
        try:
            with importlib.import_module("jtop").jtop() as board:
                while not ended.is_set() and board.ok():
                    latest[:] = [look_at(board)]
                    heard.set()
        except Exception:  # no service, no right to its socket, another version
            latest.clear()
        heard.set()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        heard.wait(wait)
        yield lambda: latest[0] if latest else None
    finally:
        ended.set()
        thread.join(_PATIENCE)


def look_at(board: Any) -> JtopLook:
    """Read a client that is connected; its clocks are kHz, its power mW."""
    memory = board.memory.get("EMC", {}).get("cur")
    dla = [
        clock["cur"] / 1000
        for engine, clocks in sorted(board.engine.items())
        if engine.startswith("DLA")
        for name, clock in sorted(clocks.items())
        if name.endswith("_CORE") and "cur" in clock
    ]
    rails, total = board.power.get("rail", {}), board.power.get("tot", {})
    milliwatts = {name: float(rail["power"]) for name, rail in rails.items()}
    if "name" in total:  # one of the rails, taken out of them
        milliwatts[total["name"]] = float(total["power"])
    return JtopLook(None if memory is None else memory / 1000, tuple(dla), milliwatts)
