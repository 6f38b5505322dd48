"""Measure files against each other in one interleaved run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.alignment import misaligned_convs, misalignment_message
from bench.devices import require_device
from bench.entries import Entry, entries_of
from bench.errors import BenchAlignmentError, BenchError
from bench.loop import Minimum, ProgressCallback, measure
from bench.machine import Machine, read_machine
from bench.noise import Interference, interference_between, likely_cause, read_cpu_seconds
from bench.result import SCHEMA, BenchResult, Latency, Row
from bench.runtimes.base import Runtime
from bench.statistics import CV_LIMIT, median_ratio, percentile, samples_needed, summarise

_WARMUP_ROUNDS = 3
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Settings:
    """How a run measures; recorded with its result. Times in seconds, ``align`` in channels."""

    device: str
    threads: int
    min_seconds: float
    min_count: int
    warmup_seconds: float
    seed: int
    shape: list[int] | None
    align: int | None

    def __post_init__(self) -> None:
        """Refuse values that measure nothing."""
        least = {"threads": 1, "min_seconds": 0, "min_count": 1, "warmup_seconds": 0, "align": 1}
        for name, limit in least.items():
            value = getattr(self, name)
            if value is not None and value < limit:
                raise BenchError(f"'{name}' is {value}; the least is {limit}.")


def bench_files(
    paths: Sequence[Path],
    *,
    runtimes: Sequence[str] | None = None,
    device: str = "cpu",
    threads: int = 1,
    min_seconds: float = 5.0,
    min_count: int = 64,
    warmup_seconds: float = 0.5,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    align: int | None = None,
    align_labels: Collection[str] | None = None,
    labels: Sequence[str] | None = None,
    progress: ProgressCallback | None = None,
) -> BenchResult:
    """Latency, images/s and size of exported files, the first of them being the baseline.

    Args:
        paths: the files; all are loaded at once and called in turn.
        runtimes: ``onnxruntime`` or ``openvino`` for each file (OpenVINO also reads an IR, ``.xml``
            with its ``.bin``); None for ONNX Runtime throughout.
        device: ``cpu`` is what this version measures on.
        threads: of the runtime inside one operator.
        min_seconds: the least time of the whole measuring loop ...
        min_count: ... and the least number of samples a file (11 or more: a median needs them).
        warmup_seconds: of calls before the loop that are thrown away.
        seed: of the random input and of the confidence intervals.
        shape: of the input, for files that leave it open.
        align: refuse files with a convolution whose channels are no multiple of it.
        align_labels: the labels that ``align`` holds for; None for all.
        labels: what to call the files; None for their names without ``.onnx``, behind which
            ``@openvino`` stands where it is not ONNX Runtime that runs them.
        progress: is told each new percent points of the loop, 100 in all.

    Raises:
        BenchAlignmentError: a file misses ``align``; nothing was measured.
        BenchError: a file, a setting or the machine does not fit.
    """
    require_device(device)
    files = entries_of(paths, runtimes, labels)
    settings = Settings(
        device=device,
        threads=threads,
        min_seconds=min_seconds,
        min_count=min_count,
        warmup_seconds=warmup_seconds,
        seed=seed,
        shape=None if shape is None else list(shape),
        align=align,
    )
    if settings.align is not None:
        _require_alignment(files, settings.align, align_labels)
    return _measure(files, settings, progress)


def _require_alignment(
    files: Mapping[str, Entry], align: int, labels: Collection[str] | None
) -> None:
    unknown = sorted(set(labels or ()) - files.keys())
    if unknown:
        raise BenchError(f"align_labels names {unknown}; the files are {sorted(files)}.")
    found = {
        label: misaligned_convs(entry.path, align)
        for label, entry in files.items()
        if labels is None or label in labels
    }
    misaligned = {label: convs for label, convs in found.items() if convs}
    if misaligned:
        raise BenchAlignmentError(misalignment_message(misaligned, align), misaligned)


def _measure(
    files: Mapping[str, Entry], settings: Settings, progress: ProgressCallback | None
) -> BenchResult:
    with ExitStack() as stack:
        runtimes: dict[str, Runtime] = {
            label: stack.enter_context(entry.ready(settings.threads, settings.shape, settings.seed))
            for label, entry in files.items()
        }
        before = read_cpu_seconds()
        samples = measure(
            {label: runtime.infer for label, runtime in runtimes.items()},
            warmup=Minimum(settings.warmup_seconds, _WARMUP_ROUNDS),
            minimum=Minimum(settings.min_seconds, max(settings.min_count, samples_needed(50))),
            progress=progress,
        )
        interference = interference_between(before, read_cpu_seconds())
    machine = read_machine()
    return BenchResult(
        schema=SCHEMA,
        machine=asdict(machine),
        settings=asdict(settings),
        interference=asdict(interference),
        warnings=[
            *_differences(runtimes),
            *_variations(samples, settings.threads, machine, interference),
        ],
        rows=_rows(files, runtimes, samples, settings.seed),
        samples_ns=samples,
    )


def _rows(
    files: Mapping[str, Entry],
    runtimes: Mapping[str, Runtime],
    samples: Mapping[str, list[int]],
    seed: int,
) -> list[Row]:
    base = next(iter(samples.values()))
    rows = []
    for label, entry in files.items():
        latency = _latency(samples[label])
        runtime = runtimes[label]
        speedup = median_ratio(base, samples[label], seed=seed)
        row = Row(
            file=str(entry.path),
            label=label,
            runtime=runtime.runtime,
            float_type=runtime.float_type,
            sha256=entry.sha256(),
            bytes=entry.bytes,
            input=list(runtime.input_shape),
            latency_ms=latency,
            fps=runtime.input_shape[0] * 1000 / latency["p50"],
            speedup=speedup.value,
            speedup_ci=[speedup.low, speedup.high],
        )
        rows.append(row)
    return rows


def _latency(samples: Sequence[int]) -> Latency:
    summary = summarise(samples)
    return Latency(
        p50=percentile(samples, 50) / _NS_PER_MS,
        p90=None if summary.p90 is None else summary.p90 / _NS_PER_MS,
        p99=None if summary.p99 is None else summary.p99 / _NS_PER_MS,
        mean=summary.mean / _NS_PER_MS,
        cv=summary.cv,
        count=summary.count,
    )


def _differences(runtimes: Mapping[str, Runtime]) -> list[str]:
    """What the files do not have in common, so that their speeds are no fair comparison."""
    warnings = []
    shapes = {label: list(runtime.input_shape) for label, runtime in runtimes.items()}
    if len({runtime.input_shape for runtime in runtimes.values()}) > 1:
        warnings.append(f"the files take inputs of different shapes, so speeds differ: {shapes}.")
    for kind in sorted({runtime.float_type for runtime in runtimes.values()} - {"f32"}):
        labels = [f"'{label}'" for label, runtime in runtimes.items() if runtime.float_type == kind]
        warnings.append(
            f"float layers run in {kind}, not f32, on this CPU: {', '.join(labels)} (its runtime's "
            "default, and what it would do in use)."
        )
    return warnings


def _variations(
    samples: Mapping[str, list[int]], threads: int, machine: Machine, interference: Interference
) -> list[str]:
    by_cause: dict[str, list[str]] = {}
    for label, series in samples.items():
        variation = summarise(series).cv
        if variation > CV_LIMIT:
            cause = likely_cause(series, threads, machine, interference)
            by_cause.setdefault(cause, []).append(f"'{label}' by {variation:.1%}")
    return [
        f"latency varies (CV over {CV_LIMIT:.1%}): {', '.join(labels)}. Likely cause: {cause}."
        for cause, labels in by_cause.items()
    ]
