"""How faults are put into words: suggestions for misspelt names, values as the user wrote them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``; did you mean 'ratio'?`` for the nearest of ``known``; empty if none is near."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(wrong.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean '{names[near[0]]}'?" if near else ""


def unknown(wrong: str, known: Sequence[str]) -> str:
    """The nearest of ``known``, or all of them if none is near."""
    return did_you_mean(wrong, known) or f"; known here: {', '.join(known)}"


def shown(value: object) -> str:
    """A value in YAML's words, cut to a readable length."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"a mapping of {', '.join(map(str, value))}"[:60] if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
