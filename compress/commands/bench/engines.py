"""ONNX files that TensorRT is to run on this machine become engines, once, in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.builds import needs_engine
from compress.errors import CompressError

if TYPE_CHECKING:
    from bench.settings import Settings

_KEY_LENGTH = 16


def read_source(path: Path) -> dict[str, Any]:
    """What a board has to know of an ONNX file to build an engine of it.

    Raises:
        ExportError: it cannot be read, or TensorRT does not take it.
    """
    from export import tensorrt_source

    return tensorrt_source.read_source(path).facts()


def with_engines(
    paths: Sequence[Path],
    runtimes: Sequence[str | None] | None,
    settings: Settings,
    say: Callable[[str], None],
) -> list[Path]:
    """``paths``, with an engine for each ONNX file that TensorRT is to run.

    Args:
        paths: the files.
        runtimes: what runs each, None where nobody said.
        settings: of the measurement.
        say: is told of each engine that has to be built, which takes minutes.

    Raises:
        BenchError: the device is not there.
        CompressError: an engine is to be built for another GPU than the first.
        ExportError: TensorRT is missing, or cannot build an engine.
    """
    named = runtimes or [None] * len(paths)
    needed = [
        needs_engine(path, name, settings.device) for path, name in zip(paths, named, strict=True)
    ]
    if any(needed):
        from bench.devices.choose import device_of

        device_of(settings.device, settings.index)  # what is not there is told first
        if settings.index:
            raise CompressError(
                "engines are built for the first GPU alone: instead of --index "
                f"{settings.index} set CUDA_VISIBLE_DEVICES={settings.index}"
            )
    return [
        _engine_of(path, settings, say) if need else path
        for path, need in zip(paths, needed, strict=True)
    ]


def _engine_of(path: Path, settings: Settings, say: Callable[[str], None]) -> Path:
    from export.tensorrt_api import gpu_name, load_tensorrt
    from export.tensorrt_engine import EngineSettings, build_from
    from export.tensorrt_source import read_source as read

    source, tensorrt = read(path), load_tensorrt()
    shape = None if settings.shape is None else tuple(settings.shape)
    made_for = [source.sha256, shape, tensorrt.version_text, gpu_name()]
    key = hashlib.sha256(json.dumps(made_for).encode()).hexdigest()[:_KEY_LENGTH]
    folder = engine_cache() / key
    engine = folder / f"{path.stem}.engine"
    if _is_whole(engine):
        return engine
    say(f"'{path}': building an engine of it in '{folder}', which takes minutes")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / path.name)  # channels and metadata are read off it
    times = engine_cache() / "times.cache"
    build_from(source, engine, EngineSettings(shape=shape, timing_cache=times))
    return engine


def engine_cache() -> Path:
    """Where engines are kept for the next time."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "compress" / "engines"


def _is_whole(engine: Path) -> bool:
    """Whether there is an engine, as its JSON says."""
    try:
        wanted = json.loads(engine.with_name(f"{engine.name}.json").read_text())["engine_sha256"]
        return bool(hashlib.sha256(engine.read_bytes()).hexdigest() == wanted)
    except (OSError, ValueError, KeyError, TypeError):
        return False
