"""Profile artifacts: every operator's time, by PyTorch module, beside the undisturbed latency."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.devices.machine import read_machine
from bench.entries import (
    ONNXRUNTIME,
    OPENVINO,
    TENSORRT,
    Entry,
    entries_of,
    label_of,
    usual_runtime,
)
from bench.errors import BenchError
from bench.loop import Minimum, measure
from bench.onnx_file import source_onnx
from bench.profile.rows import Change, LayerRow, changes_between, rows_of, untimed
from bench.settings import Settings
from bench.statistics import percentile
from bench.work import NetWork, work_of

SCHEMA = 1
_WARMUP_ROUNDS = 2  # at least what the profilers throw away
_LEAST_ROUNDS = 11
_DEVICES = {ONNXRUNTIME: "cpu", OPENVINO: "cpu"}


@dataclass(frozen=True)
class Profile:
    """One file. ``sum_ms`` is that of ``rows``; ``latency_ms`` the median without a profiler."""

    file: str
    label: str
    runtime: str
    rows: list[LayerRow]
    sum_ms: float
    latency_ms: float
    notes: list[str]


@dataclass(frozen=True)
class Profiles:
    """All files, and the changes between the two where there are two."""

    profiles: list[Profile]
    changes: list[Change]
    settings: Settings

    def as_json(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {
            "schema": SCHEMA,
            "kind": "profile",
            "machine": asdict(read_machine()),
            "settings": asdict(self.settings),
            "profiles": [asdict(profile) for profile in self.profiles],
            "changes": [
                {**asdict(change), "difference": change.difference} for change in self.changes
            ],
        }


def profile_files(
    paths: Sequence[Path], settings: Settings | None = None, runtime: str = ""
) -> Profiles:
    """Time every operator of one file, or of two in turn.

    Args:
        paths: one or two files.
        settings: device, threads, shape, seed, and the least time and rounds of each loop.
        runtime: what runs all of them: ``onnxruntime``, ``openvino`` or ``tensorrt``; empty for
            what the first file's suffix says.

    Raises:
        BenchError: a file cannot be read or run, or the runtime cannot time layers on the device.
    """
    settings = settings or Settings()
    if len(paths) not in (1, 2):
        raise BenchError(f"{len(paths)} files: profile one, or two to be compared.")
    runtime = runtime or usual_runtime(paths[0], settings.device)
    _check(runtime, settings.device)
    labels = _labels(paths, runtime)
    entries = entries_of(paths, settings, [runtime] * len(paths), labels)
    with ExitStack() as stack:
        opened = {k: stack.enter_context(entry.ready(settings)) for k, entry in entries.items()}
        undisturbed = {label: _Undisturbed(opened[label].infer) for label in opened}
        times, int8 = _operator_times(runtime, entries, settings, undisturbed)
        versions = {label: opened[label].runtime for label in opened}
    profiles = [
        _profile(
            entries[label].path,
            label,
            versions[label],
            times[label],
            int8.get(label, {}),
            call,
            settings,
        )
        for label, call in undisturbed.items()
    ]
    changes = changes_between(*(profile.rows for profile in profiles)) if len(paths) == 2 else []
    return Profiles(profiles, changes, settings)


def _check(runtime: str, device: str) -> None:
    if runtime not in (ONNXRUNTIME, OPENVINO, TENSORRT):
        raise BenchError(
            f"Runtime '{runtime}' does not tell the times of layers; "
            f"{ONNXRUNTIME}, {OPENVINO} and {TENSORRT} do."
        )
    if device != _DEVICES.get(runtime, device):
        raise BenchError(
            f"{runtime} tells the times of layers on the CPU alone: leave --device {device} out, "
            "or build an engine ('compress engine') and profile that."
        )


def _labels(paths: Sequence[Path], runtime: str) -> list[str]:
    """Names of the files, with their folders where they are called alike."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        folder = os.path.commonpath([path.absolute().parent for path in paths])
        names = [str(path.absolute().relative_to(folder).with_suffix("")) for path in paths]
    if len(set(names)) < len(names):
        names = [path.name for path in paths]
    return [label_of(name, runtime) for name in names]


def _net(path: Path, settings: Settings) -> tuple[NetWork | None, list[str]]:
    """The work of a file's graph, or why it is unknown: times alone are worth a table, too."""
    source = path if path.suffix == ".onnx" else source_onnx(path)
    if source is None:
        return None, [f"MACs and kinds are read from ONNX files; '{path.name}' is none."]
    try:
        return work_of(source, settings.shape), []
    except BenchError as error:
        return None, [f"without MACs and kinds: {error}"]


class _Undisturbed:
    """A runtime without a profiler, timed in turn with the one that has it."""

    def __init__(self, infer: Callable[[], None]) -> None:
        self._infer = infer
        self._samples: list[int] = []

    def __call__(self) -> None:
        before = time.perf_counter_ns()
        self._infer()
        self._samples.append(time.perf_counter_ns() - before)

    @property
    def median_ms(self) -> float:
        return percentile(self._samples[_WARMUP_ROUNDS:], 50) / 1e6


def _minimum(settings: Settings) -> Minimum:
    return Minimum(settings.min_seconds, max(settings.min_count, _LEAST_ROUNDS))


def _operator_times(
    runtime: str,
    entries: Mapping[str, Entry],
    settings: Settings,
    undisturbed: Mapping[str, Callable[[], None]],
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, set[bool]]]]:
    """By label: milliseconds of operators, and whether they ran on integers where that is told."""
    files = {label: entry.path for label, entry in entries.items()}
    beside = {f"{label}, undisturbed": call for label, call in undisturbed.items()}
    minimum, seed, shape = _minimum(settings), settings.seed, settings.shape
    if runtime == TENSORRT:
        from bench.profile.tensorrt_times import tensorrt_node_times

        measure(beside, warmup=Minimum(0, 0), minimum=minimum)
        return tensorrt_node_times(
            files, minimum=minimum, shape=shape, index=settings.index, seed=seed
        ), {}
    if runtime == OPENVINO:
        from bench.profile.openvino_times import openvino_node_times as node_times
    else:
        from bench.profile.onnxruntime_times import node_times
    int8: dict[str, dict[str, set[bool]]] = {}
    times = node_times(
        files,
        threads=settings.threads,
        minimum=minimum,
        seed=seed,
        shape=shape,
        beside=beside,
        int8=int8,
    )
    return times, int8


def _profile(
    path: Path,
    label: str,
    runtime: str,
    times: Mapping[str, float],
    int8: Mapping[str, set[bool]],
    undisturbed: _Undisturbed,
    settings: Settings,
) -> Profile:
    if not times:
        raise BenchError(f"'{path}': {runtime} told no times of layers.")
    net, notes = _net(path, settings)
    inside = [module for module in untimed(times, net) if module] if net else []
    if inside:
        notes.append(f"computed inside another, without a time of their own: {', '.join(inside)}.")
    return Profile(
        file=str(path),
        label=label,
        runtime=runtime,
        rows=rows_of(times, net, int8),
        sum_ms=sum(times.values()),
        latency_ms=undisturbed.median_ms,
        notes=notes,
    )
