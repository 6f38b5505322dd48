"""What travels to a board: files, hashed, and the code that runs there as one archive."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError

_ROOT = Path(__file__).parents[2]
# packages of the bench that no worker imports, but for these files of the results
_STAY = ("conv_times", "remote", "results", "roofline")
_WRITTEN = ("__init__.py", "files.py", "schema.py")
# what builds an engine of an ONNX file that was read here
BUILDER = tuple(
    f"export/{name}.py"
    for name in (
        "__init__",
        "board_build",
        "engine_audit",
        "errors",
        "tensorrt_api",
        "tensorrt_engine",
        "tensorrt_source",
    )
)


@dataclass(frozen=True)
class Parcel:
    """A file as it will be called there. ``content``: its bytes, or where they are."""

    name: str
    content: bytes | Path
    sha256: str
    bytes: int


def parcel_of_bytes(name: str, content: bytes) -> Parcel:
    """What was made here for the board."""
    return Parcel(name, content, hashlib.sha256(content).hexdigest(), len(content))


def parcel_of_json(name: str, value: Any) -> Parcel:
    """A document for the board."""
    return parcel_of_bytes(name, json.dumps(value).encode())


def parcel_of_file(name: str, path: Path) -> Parcel:
    """A file of the user's.

    Raises:
        BenchError: it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise BenchError(f"'{path}' cannot be read: {error.strerror}.") from None
    return Parcel(name, path, digest.hexdigest(), size)


def code_files(deploy: bool, builder: bool) -> list[Path]:
    """The sources that run on a board: the bench; ``deploy`` for images; the engine ``builder``."""
    bench = _ROOT / "bench"
    files = [
        file
        for file in bench.rglob("*.py")
        if file.relative_to(bench).parts[0] not in _STAY
        or (file.parent.name == "results" and file.name in _WRITTEN)
    ]
    if deploy:
        files += (_ROOT / "deploy").rglob("*.py")
    if builder:
        files += (_ROOT / name for name in BUILDER)
    return sorted(files)


def code_archive(files: Iterable[Path]) -> bytes:
    """``files`` as an archive that Python imports from: the same bytes for the same sources."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(_ROOT).as_posix())
            entry.compress_type = zipfile.ZIP_DEFLATED
            zipped.writestr(entry, file.read_bytes())
    return archive.getvalue()
