"""Which artifact is measured in which runtime, and what it is called."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.errors import BenchError
from bench.onnx_file import source_hash
from bench.runtimes.base import Runtime
from bench.settings import Settings

ONNXRUNTIME, OPENVINO, TENSORRT, TORCH = "onnxruntime", "openvino", "tensorrt", "torch"
ONNXRUNTIME_TENSORRT = "onnxruntime-tensorrt"
CPU, GPUS = "cpu", ("cuda", "jetson")
# by suffix: what runs a file where nobody says
_USUAL = {
    ".onnx": ONNXRUNTIME,
    ".xml": OPENVINO,
    ".engine": TENSORRT,
    ".torchscript": TORCH,
    ".pt": TORCH,
}
_DEVICES = {
    ONNXRUNTIME: (CPU, *GPUS),
    ONNXRUNTIME_TENSORRT: GPUS,
    OPENVINO: (CPU,),
    TENSORRT: GPUS,
    TORCH: (CPU, *GPUS),
}


class Loader(Protocol):
    """What puts a file into a runtime, to be entered."""

    def __call__(self, path: Path, settings: Settings, /) -> Runtime:
        """Nothing is read before the runtime is entered."""


@dataclass(frozen=True)
class Identity:
    """What a file is: hash and size (of an IR with its weights).

    ``source_sha256``: hash of the ONNX file that an engine was built of, by the JSON beside it.
    """

    sha256: str
    source_sha256: str | None
    bytes: int


@dataclass(frozen=True)
class Entry:
    """An artifact in a runtime."""

    path: Path
    runtime: str
    load: Loader

    def ready(self, settings: Settings) -> Runtime:
        """The artifact in its runtime, to be entered."""
        return self.load(self.path, settings)

    def identity(self) -> Identity:
        """Hash and size of what is there now.

        Raises:
            BenchError: it cannot be read.
        """
        digest, size = hashlib.sha256(), 0
        try:
            for part in self._parts:
                with part.open("rb") as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
                        size += len(chunk)
        except OSError as error:
            raise BenchError(f"'{self.path}' cannot be read: {error.strerror}.") from error
        return Identity(digest.hexdigest(), source_hash(self.path), size)

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
        BenchError: nothing reads such a file, or it is not what one runs on ``device``.
    """
    runtime = _USUAL.get(path.suffix)
    if runtime is None:
        known = ", ".join(_USUAL)
        raise BenchError(f"'{path}': the bench reads {known}. Export it first.")
    if runtime == ONNXRUNTIME and device == "jetson":
        raise BenchError(
            f"'{path}': on a Jetson the GPU runs engines. Build one first: compress engine {path}; "
            "or measure it with --runtime onnxruntime, if ONNX Runtime's GPU build is there."
        )
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
        BenchError: no file, a runtime that is not known or does not fit the device or the file, or
            labels that do not fit.
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
    for path, runtime in zip(paths, chosen):
        _check(path, runtime, settings.device, own_loader=runtime in (loaders or {}))
    entries = [Entry(path, runtime, known[runtime]) for path, runtime in zip(paths, chosen)]
    own_names = [label_of(entry.path.stem, entry.runtime) for entry in entries]
    names = own_names if labels is None else list(labels)
    if len(names) != len(paths):
        raise BenchError(f"{len(paths)} files but {len(names)} labels: give one label a file.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchError(f"Two files are called {twice}: give each a label of its own.")
    return dict(zip(names, entries))


def _check(path: Path, runtime: str, device: str, own_loader: bool) -> None:
    """Refuse what cannot run on the device, and what only ``compress`` can load."""
    devices = _DEVICES.get(runtime, ())
    if devices and device not in devices:
        raise BenchError(
            f"'{path}': {runtime} does not run on --device {device}, but on {' or '.join(devices)}."
        )
    if path.suffix == ".pt" and runtime == TORCH and not own_loader:
        raise BenchError(
            f"'{path}': a .pt is measured by compress bench where PyTorch is installed: pip "
            "install 'yolo-compress[train]'. On a board measure what it was exported to."
        )


def _onnxruntime(path: Path, settings: Settings) -> Runtime:
    from bench.runtimes.onnxruntime_providers import CPU as ON_CPU
    from bench.runtimes.onnxruntime_providers import CUDA

    return _in_provider(path, settings, CUDA if settings.device in GPUS else ON_CPU)


def _onnxruntime_tensorrt(path: Path, settings: Settings) -> Runtime:
    from bench.runtimes.onnxruntime_providers import TENSORRT as PROVIDER

    return _in_provider(path, settings, PROVIDER)


def _in_provider(path: Path, settings: Settings, provider: str) -> Runtime:
    from bench.runtimes.onnxruntime import OnnxRuntime

    threads, shape, seed = settings.threads, settings.shape, settings.seed
    return OnnxRuntime(path, threads, shape, seed, provider, settings.index)


def _openvino(path: Path, settings: Settings) -> Runtime:
    from bench.runtimes.openvino_cpu import OpenVinoCpu

    return OpenVinoCpu(path, settings.threads, settings.shape, settings.seed)


def _tensorrt(path: Path, settings: Settings) -> Runtime:
    from bench.runtimes.tensorrt_engine import TensorRtEngine

    shape, seed, index = settings.shape, settings.seed, settings.index
    return TensorRtEngine(path, shape, seed, index, settings.cuda_graph)


def _torchscript(path: Path, settings: Settings) -> Runtime:
    from bench.runtimes.torch_module import TorchModule

    gpu = settings.index if settings.device in GPUS else None
    return TorchModule(path, settings.threads, settings.shape, settings.seed, gpu)


_LOADERS: Mapping[str, Loader] = {
    ONNXRUNTIME: _onnxruntime,
    ONNXRUNTIME_TENSORRT: _onnxruntime_tensorrt,
    OPENVINO: _openvino,
    TENSORRT: _tensorrt,
    TORCH: _torchscript,
}
