"""What was found out about a file, kept under its size and time of change."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

Stamp = tuple[int, int]  # size in bytes, time of change in nanoseconds
Entries = dict[str, tuple[int, int, str]]  # file -> its stamp and what was found out


def look_up(
    files: Iterable[Path], memo: Path, examine: Callable[[Path], str | None]
) -> dict[Path, str | None]:
    """What ``examine`` says of each file; None where there is no such file.

    Only files that ``memo`` does not know under their size and time of change are examined. An
    answer of None is not remembered. A memo that is missing, damaged or cannot be written costs
    time, nothing else.
    """
    known = _read(memo)
    stamps = {file: _stamp(file) for file in files}
    answers = {file: _remembered(known, file, stamp) for file, stamp in stamps.items()}
    stale = [file for file, stamp in stamps.items() if stamp and answers[file] is None]
    if stale:
        with ThreadPoolExecutor() as pool:  # hashing and reading let go of the interpreter
            answers.update(zip(stale, pool.map(examine, stale), strict=True))
        fresh = ((file, stamps[file], answers[file]) for file in stale)
        _write(
            memo,
            known | {str(file): (*stamp, text) for file, stamp, text in fresh if stamp and text},
        )
    return answers


def _stamp(file: Path) -> Stamp | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _remembered(known: Entries, file: Path, stamp: Stamp | None) -> str | None:
    size, changed, text = known.get(str(file), (-1, -1, ""))
    return text if stamp == (size, changed) else None


def _read(memo: Path) -> Entries:
    try:
        return {
            str(file): (int(size), int(changed), str(text))
            for file, (size, changed, text) in json.loads(memo.read_bytes()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(memo: Path, entries: Entries) -> None:
    """Replace the memo as a whole; without permission the next call just looks again."""
    with suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=memo.parent, prefix=f".{memo.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(entries, stream)
            Path(draft).replace(memo)
        finally:
            Path(draft).unlink(missing_ok=True)
