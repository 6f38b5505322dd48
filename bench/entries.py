"""Which file is measured in which runtime, and what it is called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.runtimes.base import Runtime
from bench.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from bench.runtimes.openvino_cpu import OpenVinoCpu

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
_RUNTIMES: Mapping[str, Callable[[Path, int, Sequence[int] | None, int], Runtime]] = {
    ONNXRUNTIME: OnnxRuntimeCpu,
    OPENVINO: OpenVinoCpu,
}


@dataclass(frozen=True)
class Entry:
    """A file in a runtime."""

    path: Path
    runtime: str

    def ready(self, threads: int, shape: Sequence[int] | None, seed: int) -> Runtime:
        """The file in its runtime, to be entered."""
        return _RUNTIMES[self.runtime](self.path, threads, shape, seed)

    @property
    def bytes(self) -> int:
        """Size of the file; of an IR with its weights."""
        return sum(part.stat().st_size for part in self._parts)

    def sha256(self) -> str:
        """Hash of the file; of an IR with its weights."""
        digest = hashlib.sha256()
        for part in self._parts:
            with part.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()

    @property
    def _parts(self) -> list[Path]:
        path = self.path
        return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def label_of(name: str, runtime: str) -> str:
    """What a file is called in a runtime: its name alone in ONNX Runtime."""
    return name if runtime == ONNXRUNTIME else f"{name}@{runtime}"


def entries_of(
    paths: Sequence[Path], runtimes: Sequence[str] | None, labels: Sequence[str] | None
) -> dict[str, Entry]:
    """The files by label; see ``bench.run.bench_files``.

    Raises:
        BenchError: no file, a runtime that is not known, or labels that do not fit.
    """
    if not paths:
        raise BenchError("No file to measure: name at least one .onnx file.")
    chosen = [ONNXRUNTIME] * len(paths) if runtimes is None else list(runtimes)
    unknown = sorted(set(chosen) - _RUNTIMES.keys())
    if unknown:
        raise BenchError(f"Runtime '{unknown[0]}' is not known; known are {', '.join(_RUNTIMES)}.")
    if len(chosen) != len(paths):
        raise BenchError(f"{len(paths)} files but {len(chosen)} runtimes: give one runtime a file.")
    entries = [Entry(path, runtime) for path, runtime in zip(paths, chosen, strict=True)]
    own_names = [label_of(entry.path.stem, entry.runtime) for entry in entries]
    names = own_names if labels is None else list(labels)
    if len(names) != len(paths):
        raise BenchError(f"{len(paths)} files but {len(names)} labels: give one label a file.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchError(f"Two files are called {twice}: give each a label of its own.")
    return dict(zip(names, entries, strict=True))
