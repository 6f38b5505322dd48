"""Which artifact is measured in which runtime, and what it is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.runtimes.base import Runtime
from bench.settings import Settings

ONNXRUNTIME, OPENVINO, TENSORRT, TORCH = "onnxruntime", "openvino", "tensorrt", "torch"
ONNXRUNTIME_TENSORRT = "onnxruntime-tensorrt"
# by suffix: what runs a file where nobody says
_USUAL = {".onnx": ONNXRUNTIME, ".xml": OPENVINO, ".engine": TENSORRT, ".torchscript": TORCH}
Loader = Callable[[Path, Settings], Runtime]


@dataclass(frozen=True)
class Entry:
    """An artifact in a runtime."""

    path: Path
    runtime: str
    load: Loader

    def ready(self, settings: Settings) -> Runtime:
        """The artifact in its runtime, to be entered."""
        return self.load(self.path, settings)

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

    def source_sha256(self) -> str | None:
        """Hash of the ONNX file that an engine was built of, as the JSON beside it says."""
        facts = self.path.with_name(f"{self.path.name}.json")
        try:
            return str(json.loads(facts.read_text())["onnx_sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def _parts(self) -> list[Path]:
        path = self.path
        return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def label_of(name: str, runtime: str) -> str:
    """What a file is called in a runtime: its name alone in ONNX Runtime."""
    return name if runtime == ONNXRUNTIME else f"{name}@{runtime}"


def usual_runtime(path: Path, device: str) -> str:
    """What runs ``path`` on ``device`` where nobody says.

    Raises:
        BenchError: nothing reads such a file.
    """
    runtime = _USUAL.get(path.suffix)
    if runtime is None:
        known = ", ".join(_USUAL)
        raise BenchError(f"'{path}': the bench reads {known}. Export it first.")
    return runtime


def entries_of(
    paths: Sequence[Path],
    settings: Settings,
    runtimes: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    loaders: Mapping[str, Loader] | None = None,
) -> dict[str, Entry]:
    """The artifacts by label; see ``bench.run.bench_files``.

    Raises:
        BenchError: no file, a runtime that is not known, or labels that do not fit.
    """
    if not paths:
        raise BenchError("No file to measure: name at least one .onnx file.")
    known = {**_LOADERS, **(loaders or {})}
    if runtimes is None:
        chosen = [usual_runtime(path, settings.device) for path in paths]
    else:
        chosen = list(runtimes)
    unknown = sorted(set(chosen) - known.keys())
    if unknown:
        raise BenchError(f"Runtime '{unknown[0]}' is not known; known are {', '.join(known)}.")
    if len(chosen) != len(paths):
        raise BenchError(f"{len(paths)} files but {len(chosen)} runtimes: give one runtime a file.")
    entries = [Entry(path, runtime, known[runtime]) for path, runtime in zip(paths, chosen)]
    own_names = [label_of(entry.path.stem, entry.runtime) for entry in entries]
    names = own_names if labels is None else list(labels)
    if len(names) != len(paths):
        raise BenchError(f"{len(paths)} files but {len(names)} labels: give one label a file.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchError(f"Two files are called {twice}: give each a label of its own.")
    return dict(zip(names, entries))


def _onnxruntime(path: Path, settings: Settings) -> Runtime:
    from bench.runtimes.onnxruntime_cpu import OnnxRuntimeCpu

    return OnnxRuntimeCpu(path, settings.threads, settings.shape, settings.seed)


def _openvino(path: Path, settings: Settings) -> Runtime:
    from bench.runtimes.openvino_cpu import OpenVinoCpu

    return OpenVinoCpu(path, settings.threads, settings.shape, settings.seed)


_LOADERS: Mapping[str, Loader] = {ONNXRUNTIME: _onnxruntime, OPENVINO: _openvino}
