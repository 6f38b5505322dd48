"""What a board says: it may be anything, and some of it is shown on a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bench.errors import BenchError

# what moves a cursor, rings or cannot be printed at all; lines and tabs may stay
_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SHOWN = 200


def readable(text: str) -> str:
    """``text`` without control characters: a sign stands for each."""
    return _UNREADABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def json_of(text: str | bytes) -> Any:
    """A JSON document, all of its text readable.

    Raises:
        ValueError: it is none.
    """
    try:
        return _readable_in(json.loads(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def has(value: Any, kinds: Mapping[str, type]) -> bool:
    """Whether ``value`` is a dict with a field of each kind; ``list`` is one of texts."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name), kind)
        and (kind is not list or all(isinstance(item, str) for item in value[name]))
        for name, kind in kinds.items()
    )


def unexpected_answer(host: str, wanted: str, said: str) -> BenchError:
    """The error where a board did not say what was ``wanted``."""
    return BenchError(
        f"'{host}' answered something else than {wanted}: its Python or login shell may print "
        f"words of its own over ssh. It said: {readable(said.strip())[:_SHOWN] or 'nothing.'}"
    )


def _readable_in(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, list):
        return [_readable_in(item) for item in value]
    if isinstance(value, dict):
        return {readable(name): _readable_in(item) for name, item in value.items()}
    return value
