"""How a recipe names layers: by a pattern, or by the module that they lie in."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that ``pattern`` means: itself or anything inside it; ``*`` is any text."""
    return [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, f"{pattern}.*")]
