"""Files of the kernel: each may be missing, forbidden, or refuse to be read for a moment."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str | None:
    """The content without its end of line or NUL; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The file's one whole number; None where there is none."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def first_int(*paths: Path) -> int | None:
    """The number in the first of these files that has one."""
    for path in paths:
        value = read_int(path)
        if value is not None:
            return value
    return None
