"""How a recipe names layers: by a pattern, or by the module that they lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that ``pattern`` means: itself or anything inside it; ``*`` is any text."""
    return [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]


def matching_any(
    names: Sequence[str], patterns: Iterable[str], unmatched: Callable[[str], Exception]
) -> set[str]:
    """The names that one of ``patterns`` means.

    Raises:
        Exception: what ``unmatched`` makes of the first pattern that means none of them.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = matching(names, pattern)
        if not matched:
            raise unmatched(pattern)
        found.update(matched)
    return found
