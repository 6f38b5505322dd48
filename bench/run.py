"""Measure artifacts against each other in one interleaved run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.alignment.check import require_alignment
from bench.devices.choose import device_of
from bench.devices.machine import Machine, read_machine
from bench.end_to_end import Pipeline, prepare
from bench.entries import Entry, Identity, Loader, entries_of
from bench.errors import BenchStopped
from bench.extras import Extras, extra_seconds, measure_extras
from bench.interrupt import stop_at_interrupt
from bench.loop import Minimum, measure
from bench.noise import (
    Interference,
    interference_between,
    likely_cause,
    likely_cause_off_cpu,
    read_cpu_seconds,
)
from bench.portions import Portions
from bench.results.schema import SCHEMA, BenchResult, DeviceReport, Row
from bench.runtimes.base import Runtime
from bench.settings import Settings
from bench.statistics import CV_LIMIT, latency_of, median_ratio, samples_needed, summarise

if TYPE_CHECKING:
    from bench.devices.base import Device, Look
    from bench.loop import ProgressCallback

_WARMUP_ROUNDS = 3
_CPU = "CPU"
_LOOP, _EXTRAS = "loop", "extras"


@dataclass
class _Timed:
    """What the interleaved loop gave."""

    samples: dict[str, list[int]]
    parts: dict[str, dict[str, list[int]]]
    interference: Interference
    before: dict[str, Any]
    after: dict[str, Any]
    trace: list[Look]


def bench_files(
    paths: Sequence[Path],
    settings: Settings | None = None,
    *,
    runtimes: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    align_labels: Collection[str] | None = None,
    loaders: Mapping[str, Loader] | None = None,
    progress: ProgressCallback | None = None,
) -> BenchResult:
    """Latency, images/s and size of artifacts, the first of them being the baseline.

    Args:
        paths: the files; all are loaded at once and called in turn.
        settings: how to measure.
        runtimes: what runs each file (see ``bench.entries``); None for what its suffix says.
        labels: what to call the files; None for their names without suffix, behind which
            ``@openvino``, say, stands where it is not ONNX Runtime that runs them.
        align_labels: the labels that ``settings.align`` holds for; None for all.
        loaders: further runtimes by name.
        progress: is told each new percent points of the whole, 100 in all.

    Returns:
        The result; its ``complete`` is False where a signal ended it before its time.

    Raises:
        BenchAlignmentError: a file misses ``align``; nothing was measured.
        BenchStopped: a signal ended it before there was a single round.
        BenchError: a file, a setting or the machine does not fit.
    """
    settings = settings or Settings()
    device = device_of(settings.device, settings.index)
    files = entries_of(paths, settings, runtimes, labels, loaders)
    if settings.align is not None:
        require_alignment(files, settings.align, align_labels)
    with ExitStack() as stack:
        opened = {
            label: stack.enter_context(entry.ready(settings)) for label, entry in files.items()
        }
        # now, and not when all is measured: a file may be replaced meanwhile
        identities = {label: entry.identity() for label, entry in files.items()}
        pipelines = _pipelines(opened, files, settings)
        meter = device.power_meter() if settings.energy_seconds else None
        stopped = stack.enter_context(stop_at_interrupt())
        alone = extra_seconds(settings, len(files), meter)
        portions = Portions({_LOOP: settings.min_seconds, _EXTRAS: alone}, progress)
        timed = _timed(opened, device, settings, portions.of(_LOOP), stopped)
        extras = measure_extras(
            files, opened, pipelines, meter, settings, stopped, portions.of(_EXTRAS)
        )
        rows = [
            _row(label, entry, identities[label], opened[label], timed, extras, settings.seed)
            for label, entry in files.items()
        ]
        faults = [*_incomplete(not stopped(), timed), *extras.faults]
        return _result(opened, device, settings, timed, rows, faults, complete=not stopped())


def _pipelines(
    runtimes: Mapping[str, Runtime], files: Mapping[str, Entry], settings: Settings
) -> dict[str, Pipeline]:
    """Made first, so that what cannot be read is told before anything is measured."""
    if settings.images is None:
        return {}
    paths = {label: entry.path for label, entry in files.items()}
    return prepare(runtimes, paths, Path(settings.images), settings.seed)


def _timed(
    runtimes: Mapping[str, Runtime],
    device: Device,
    settings: Settings,
    progress: ProgressCallback,
    stopped: Callable[[], bool],
) -> _Timed:
    parts: dict[str, dict[str, list[int]]] = {label: {} for label in runtimes}

    def keep_parts(label: str) -> None:
        for part, spent in runtimes[label].parts_ns().items():
            parts[label].setdefault(part, []).append(spent)

    before, cpu_before = device.state(), read_cpu_seconds()
    with device.watched() as trace:
        samples = measure(
            {label: runtime.infer for label, runtime in runtimes.items()},
            warmup=Minimum(settings.warmup_seconds, _WARMUP_ROUNDS),
            minimum=Minimum(settings.min_seconds, max(settings.min_count, samples_needed(50))),
            progress=progress,
            stopped=stopped,
            after=keep_parts,
        )
    interference = interference_between(cpu_before, read_cpu_seconds())
    if not all(samples.values()):
        raise BenchStopped("stopped before anything was measured.")
    return _Timed(samples, parts, interference, before, device.state(), list(trace))


def _result(
    runtimes: Mapping[str, Runtime],
    device: Device,
    settings: Settings,
    timed: _Timed,
    rows: list[Row],
    faults: list[str],
    complete: bool,
) -> BenchResult:
    machine = read_machine()
    return BenchResult(
        schema=SCHEMA,
        complete=complete,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        host=None,
        machine=asdict(machine),
        device=DeviceReport(
            name=device.name,
            facts=device.facts(),
            before=timed.before,
            after=timed.after,
            trace=[dict(look) for look in timed.trace],
        ),
        settings=asdict(settings),
        interference=asdict(timed.interference),
        warnings=[
            *faults,
            *_differences(runtimes),
            *device.doubts(timed.before, timed.after, timed.trace),
            *_variations(timed, runtimes, settings.threads, machine),
        ],
        rows=rows,
        samples_ns=timed.samples,
        parts_ns=timed.parts,
    )


def _row(
    label: str,
    entry: Entry,
    identity: Identity,
    runtime: Runtime,
    timed: _Timed,
    extras: Extras,
    seed: int,
) -> Row:
    base, samples = next(iter(timed.samples.values())), timed.samples[label]
    latency = latency_of(samples)
    speedup = median_ratio(base, samples, seed=seed)
    return Row(
        file=str(entry.path),
        label=label,
        runtime=runtime.runtime,
        device=runtime.device,
        float_type=runtime.float_type,
        sha256=identity.sha256,
        source_sha256=identity.source_sha256,
        bytes=identity.bytes,
        input=list(runtime.input_shape),
        latency_ms=latency,
        parts_ms={part: latency_of(series) for part, series in timed.parts[label].items()},
        fps=runtime.input_shape[0] * 1000 / latency["p50"],
        speedup=speedup.value,
        speedup_ci=[speedup.low, speedup.high],
        end_to_end=extras.end_to_end.get(label),
        throughput=extras.throughput.get(label),
        energy=extras.energy.get(label),
        map={},
        notes=runtime.notes,
    )


def _incomplete(complete: bool, timed: _Timed) -> list[str]:
    if complete:
        return []
    rounds = len(next(iter(timed.samples.values())))
    return [
        f"stopped before its time: {rounds} rounds were measured, and what comes behind the "
        "latency is not complete."
    ]


def _differences(runtimes: Mapping[str, Runtime]) -> list[str]:
    """What the files do not have in common, so that their speeds are no fair comparison."""
    warnings = []
    shapes = {label: list(runtime.input_shape) for label, runtime in runtimes.items()}
    if len({runtime.input_shape for runtime in runtimes.values()}) > 1:
        warnings.append(f"the files take inputs of different shapes, so speeds differ: {shapes}.")
    for kind in sorted({runtime.float_type for runtime in runtimes.values()} - {"f32", "unknown"}):
        labels = [f"'{label}'" for label, runtime in runtimes.items() if runtime.float_type == kind]
        warnings.append(
            f"float layers run in {kind}, not f32, on this device: {', '.join(labels)} (its "
            "runtime's default, and what it would do in use)."
        )
    return warnings


def _variations(
    timed: _Timed, runtimes: Mapping[str, Runtime], threads: int, machine: Machine
) -> list[str]:
    by_cause: dict[str, list[str]] = {}
    for label, series in timed.samples.items():
        variation = summarise(series).cv
        if variation > CV_LIMIT:
            if runtimes[label].device == _CPU:
                cause = likely_cause(series, threads, machine, timed.interference)
            else:
                cause = likely_cause_off_cpu(machine, timed.interference)
            by_cause.setdefault(cause, []).append(f"'{label}' by {variation:.1%}")
    return [
        f"latency varies (CV over {CV_LIMIT:.1%}): {', '.join(labels)}. Likely cause: {cause}."
        for cause, labels in by_cause.items()
    ]
