"""One hash for everything that a data set can change in a result."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from compress.data.dataset import DataSet, label_path

Stamp = tuple[int, int]  # size in bytes, time of change in nanoseconds
Memo = dict[str, tuple[int, int, str]]  # file -> its stamp and sha256


def fingerprint(dataset: DataSet, memo: Path) -> str:
    """Hash (64 hex digits) over names, splits, and every image and label by path and content.

    Paths count from the folder that all images share, so a copy elsewhere has the same hash.
    ``memo`` is a file that keeps the hash of each file under its size and time of change: the next
    call reads only what has changed. A memo that is missing or damaged costs time, nothing else.

    Raises:
        OSError: an image or label cannot be read.
    """
    images = sorted({image for split in dataset.splits.values() for image in split})
    digests = _digests([*images, *map(label_path, images)], memo)
    root = os.path.commonpath([image.parent for image in images])
    splits = {
        split: [
            (image.relative_to(root).as_posix(), digests[image], digests[label_path(image)])
            for image in sorted(files)
        ]
        for split, files in dataset.splits.items()
    }
    content = json.dumps({"names": dataset.names, "splits": splits}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _digests(files: list[Path], memo: Path) -> dict[Path, str | None]:
    """sha256 of each file; None where there is none."""
    known = _read_memo(memo)
    stamps = {file: _stamp(file) for file in files}
    digests = {file: _remembered(known, file, stamp) for file, stamp in stamps.items()}
    stale = [file for file, stamp in stamps.items() if stamp and digests[file] is None]
    if stale:
        with ThreadPoolExecutor() as pool:  # hashing and reading let go of the interpreter
            digests.update(zip(stale, pool.map(_sha256, stale), strict=True))
        _write_memo(memo, known | _entries(stale, stamps, digests))
    return digests


def _stamp(file: Path) -> Stamp | None:
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _remembered(known: Memo, file: Path, stamp: Stamp | None) -> str | None:
    size, changed, digest = known.get(str(file), (-1, -1, ""))
    return digest if stamp == (size, changed) else None


def _entries(
    files: Iterable[Path],
    stamps: dict[Path, Stamp | None],
    digests: dict[Path, str | None],
) -> Memo:
    found = ((file, stamps[file], digests[file]) for file in files)
    return {str(file): (*stamp, digest) for file, stamp, digest in found if stamp and digest}


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _read_memo(memo: Path) -> Memo:
    try:
        return {
            str(file): (int(size), int(changed), str(digest))
            for file, (size, changed, digest) in json.loads(memo.read_bytes()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_memo(memo: Path, entries: Memo) -> None:
    """Replace the memo as a whole; without permission the next call just hashes again."""
    with suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=memo.parent, prefix=f".{memo.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(entries, stream)
            Path(draft).replace(memo)
        finally:
            Path(draft).unlink(missing_ok=True)
