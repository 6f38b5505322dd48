"""Results of stages on disk, found by key. Whole and proven by hash, or not there at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.pipeline.contract import Artifact, StageResult
from compress.pipeline.files import (
    canonical_json,
    jsonable,
    remove_tree,
    sha256_of,
    storage_faults,
    write_json,
)
from compress.pipeline.locks import Busy, hold
from compress.progress import Progress

MANIFEST = "manifest.json"
_KEY_DIGITS = 16


@dataclass(frozen=True)
class StoredFile:
    """A file of an entry: ``path`` inside its folder, ``sha256`` and size in ``bytes``."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """The stored result of one stage. ``seconds`` is what it took to make."""

    folder: Path
    key: str
    files: Mapping[str, StoredFile]
    metrics: Mapping[str, Any]
    material: Mapping[str, Any]
    seconds: float

    def artifacts(self) -> dict[str, Artifact]:
        """Its files by name."""
        return {
            name: Artifact(self.folder / file.path, file.sha256)
            for name, file in self.files.items()
        }


class NotStored(Exception):
    """The cache has no result under a key. ``damage`` says what is wrong with the one there was."""

    def __init__(self, damage: str = "") -> None:
        """Keep ``damage``; empty where nothing was stored."""
        self.damage = damage
        super().__init__(damage)


class StageCache:
    """The folder of all stages' results. Writers of one key exclude each other by ``exclusive``.

    An entry is written under a hidden name, its manifest last, and renamed into place: a kill at
    any moment leaves the old entry, the new one, or none. Hidden leftovers are never read.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        """Use ``root``; warnings go to ``progress``."""
        self._entries = root / "stages"
        self._scratches = root / "scratch"
        self._locks = root / "locks"
        self._progress = progress

    def exclusive(self, stage: str, key: str) -> AbstractContextManager[None]:
        """Keep other processes from this key inside the block; waits for one that is at it."""

        def waiting(holder: str) -> None:
            message = f"  waiting for {holder}, which makes the same '{stage}'"
            self._progress.say(message, important=True)

        return hold(self._locks / f"{_label(stage, key)}.lock", waiting)

    def load(self, stage: str, key: str) -> Entry:
        """The stored result, every file's hash checked.

        Raises:
            NotStored: there is none, or it is damaged.
        """
        folder = self._entries / _label(stage, key)
        if not folder.exists():
            raise NotStored
        try:
            entry = _read(folder)
        except NotStored as fault:
            message = f"  warning: {folder} is damaged and not used: {fault.damage}"
            self._progress.say(message, important=True)
            raise
        if entry.key != key:
            raise NotStored("it belongs to another key")
        return entry

    def scratch(self, stage: str, key: str) -> Path:
        """A folder that outlives a kill, for this key only; made if need be."""
        folder = self._scratches / _label(stage, key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_scratch(self, stage: str, key: str) -> None:
        """Remove what ``scratch`` kept."""
        remove_tree(self._scratches / _label(stage, key))

    @contextmanager
    def writing(self, stage: str, key: str) -> Iterator[Path]:
        """An empty folder for the stage's files; gone after the block, unless ``store`` took it.

        Raises:
            CompressError: in place of a full disk or a missing permission.
        """
        folder = self._entries / f".new-{_label(stage, key)}"
        remove_tree(folder)
        folder.mkdir(parents=True)
        try:
            with storage_faults(self._entries):
                yield folder
        finally:
            remove_tree(folder)

    def store(
        self,
        folder: Path,
        key: str,
        result: StageResult,
        material: Mapping[str, Any],
        seconds: float,
    ) -> Entry:
        """Make the files of ``result`` in ``folder`` (of ``writing``) the result under ``key``."""
        label = _label(str(material["stage"]), key)
        files = {name: _describe(folder, path) for name, path in result.files.items()}
        kept = self._entries / label
        entry = Entry(kept, key, files, jsonable(result.metrics), material, seconds)
        _write(folder, entry)
        outdated = self._entries / f".old-{label}"
        remove_tree(outdated)
        if kept.exists():  # forced or damaged: a folder cannot be renamed over a full one
            kept.rename(outdated)
        folder.rename(kept)
        remove_tree(outdated)
        return entry

    def clean(self) -> None:
        """Remove what killed processes left half done."""
        for leftover in [*self._entries.glob(".new-*"), *self._entries.glob(".old-*")]:
            label = leftover.name.split("-", 1)[1]
            with suppress(Busy), hold(self._locks / f"{label}.lock"):
                remove_tree(leftover)


def _label(stage: str, key: str) -> str:
    return f"{stage}-{key[:_KEY_DIGITS]}"


def _describe(folder: Path, path: str) -> StoredFile:
    file = folder / path
    return StoredFile(path, sha256_of(file), file.stat().st_size)


def _write(folder: Path, entry: Entry) -> None:
    body = {
        "key": entry.key,
        "files": {name: asdict(file) for name, file in entry.files.items()},
        "metrics": entry.metrics,
        "material": entry.material,
        "seconds": entry.seconds,
    }
    write_json(folder / MANIFEST, {**body, "sha256": _digest(body)})


def _read(folder: Path) -> Entry:
    try:
        body = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if body.pop("sha256") != _digest(body):
            raise NotStored(f"{MANIFEST} was changed")
    except FileNotFoundError:
        raise NotStored(f"it has no {MANIFEST}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise NotStored(f"{MANIFEST} cannot be read") from None
    files = {name: StoredFile(**fields) for name, fields in body["files"].items()}
    for file in files.values():
        _check(folder / file.path, file)
    return Entry(folder, body["key"], files, body["metrics"], body["material"], body["seconds"])


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _check(file: Path, expected: StoredFile) -> None:
    try:
        if file.stat().st_size != expected.bytes:
            raise NotStored(f"{file.name} has another size")
        if sha256_of(file) != expected.sha256:
            raise NotStored(f"{file.name} has other bytes")
    except FileNotFoundError:
        raise NotStored(f"{file.name} is missing") from None
