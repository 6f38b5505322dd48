"""Options that several commands read alike."""

from __future__ import annotations

from compress.errors import CompressError


def shape_of(text: str) -> tuple[int, ...] | None:
    """``1,3,640,640`` as numbers; None where nothing is given.

    Raises:
        CompressError: it is something else.
    """
    if not text:
        return None
    sizes = tuple(int(part) if part.strip().isdecimal() else 0 for part in text.split(","))
    if min(sizes) < 1:
        raise CompressError(f"--shape {text}: give whole numbers from 1, such as 1,3,640,640")
    return sizes
