"""Files that are either whole or not there: hashes, JSON, links."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from compress.errors import CompressError

_BLOCK = 1 << 20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_KEPT = (
    "Every finished stage is kept, and so is the last whole epoch of a training. "
    "Then run the same command again: it goes on from there"
)


def sha256_of(file: Path) -> str:
    """SHA-256 of the file's bytes, as hexadecimal text."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """The same text for the same value, on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def jsonable(value: Any) -> Any:
    """``value`` with string keys, plain numbers for NumPy's, and null for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_json(file: Path, value: Any) -> None:
    """Replace ``file`` by ``value`` in one step: a reader sees the old or the new text."""
    write_text(file, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Replace ``file`` by ``text`` in one step."""
    draft = _draft(file)
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; empty where there is none or it cannot be read."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy where no hard link can be."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(target)
    draft.unlink(missing_ok=True)
    try:
        os.link(source, draft)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, draft)
    draft.replace(target)


def remove_drafts(folder: Path) -> None:
    """Remove what a killed process left half written in ``folder`` and below."""
    for draft in folder.glob("**/.*.new"):
        draft.unlink()


def remove_tree(folder: Path) -> None:
    """Remove ``folder`` if it is there."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def make_writable_folder(folder: Path, option: str) -> None:
    """Make ``folder`` and try to write in it.

    Raises:
        CompressError: it cannot be written; ``option`` is the one that names another place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try_to_write(folder)
    except OSError as error:
        raise CompressError(
            f"cannot write in '{folder}': {error.strerror}. Nothing was changed. "
            f"Free or open that folder, or choose another with {option}"
        ) from error


def is_writable_folder(folder: Path) -> bool:
    """Whether ``folder`` is there and can be written; it is not made."""
    try:
        _try_to_write(folder)
    except OSError:
        return False
    return True


def _try_to_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"\0")
        probe.flush()


@contextmanager
def storage_faults(folder: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission inside the block into one clear message.

    Raises:
        CompressError: in place of the error that ``folder``'s file system caused.
    """
    try:
        yield
    except CompressError:
        raise
    except Exception as error:
        if message := _storage_message(error, folder):
            raise CompressError(f"{message}. {_KEPT}") from error
        raise


def _storage_message(error: Exception, folder: Path) -> str:
    codes = {link.errno: link for link in _chain(error) if isinstance(link, OSError)}
    # torch reports a full disk as a plain RuntimeError, so the space left is looked at too
    if codes.keys() & set(_DISK_FULL) or shutil.disk_usage(folder).free < _BLOCK:
        return f"no space left on the disk of '{folder}': free some"
    denied = next((codes[code] for code in _DENIED if code in codes), None)
    if denied:
        return f"'{denied.filename or folder}': {denied.strerror}. Mend its permissions"
    return ""


def _draft(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
