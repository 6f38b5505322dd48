"""Results over time: one series for each file on each machine. Pure but for finding the files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from bench.errors import BenchError
from bench.results.compare import TOLERANCE, time_ratio
from bench.results.files import read_result
from bench.results.schema import BenchResult, Row


@dataclass(frozen=True)
class Point:
    """One measurement of a file. ``ratio`` is its median time over that of the point before.

    ``verdict`` on it as ``bench.results.compare`` has it, ``to_first`` the same over the first
    point, where slow creep shows; all empty at a series' begin.
    """

    created: str
    source: str
    sha256: str
    p50_ms: float
    p90_ms: float | None
    to_first: float | None = None
    ratio: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Series:
    """A file in one runtime on one machine, the oldest measurement first."""

    label: str
    title: str
    points: list[Point]


@dataclass(frozen=True)
class History:
    """``skipped`` says why a file is not among the series."""

    series: list[Series]
    skipped: list[str] = field(default_factory=list)


def read_history(sources: Sequence[Path], tolerance: float = TOLERANCE) -> History:
    """The results in files and folders (``*.json`` right inside them), by time.

    Args:
        sources: files and folders.
        tolerance: as of ``bench.results.compare.compare``.

    Raises:
        BenchError: there is no readable result at all.
    """
    found: list[tuple[Path, BenchResult]] = []
    skipped = []
    for path in _files(sources):
        try:
            found.append((path, read_result(path)))
        except BenchError as error:
            skipped.append(str(error))
    if not found:
        reasons = "".join(f"\n{reason}" for reason in skipped)
        raise BenchError(f"There is no bench result among what was named.{reasons}")
    return History(_series(found, tolerance), skipped)


def _files(sources: Iterable[Path]) -> list[Path]:
    files = []
    for source in sources:
        files += sorted(source.glob("*.json")) if source.is_dir() else [source]
    return list(dict.fromkeys(files))


def _series(found: Sequence[tuple[Path, BenchResult]], tolerance: float) -> list[Series]:
    grouped: dict[tuple[str, str], list[tuple[Path, BenchResult]]] = {}
    for path, result in sorted(found, key=lambda each: _moment(each[1]["created"])):
        for row in result["rows"]:
            grouped.setdefault((row["label"], _title(result, row)), []).append((path, result))
    return [
        Series(label, title, _points(label, measured, tolerance))
        for (label, title), measured in sorted(grouped.items())
    ]


def _points(
    label: str, measured: Sequence[tuple[Path, BenchResult]], tolerance: float
) -> list[Point]:
    points: list[Point] = []
    last: Sequence[int] | None = None
    for path, result in measured:
        row = next(row for row in result["rows"] if row["label"] == label)
        samples = result["samples_ns"][label]
        ratio, verdict = None, ""
        if last is not None:
            verdict, ratio, _, _ = time_ratio([last], [samples], tolerance)
        latency = row["latency_ms"]
        points.append(
            Point(
                created=result["created"],
                source=path.name,
                sha256=row["sha256"],
                p50_ms=latency["p50"],
                p90_ms=latency["p90"],
                to_first=latency["p50"] / points[0].p50_ms if points else None,
                ratio=ratio,
                verdict=verdict,
            )
        )
        last = samples
    return points


def _title(result: BenchResult, row: Row) -> str:
    """What must be alike for times to be one series."""
    machine, settings = result["machine"], result["settings"]
    chip = "" if row["device"] == "CPU" else f", {row['device']}"
    facts = result["device"]["facts"]
    module = f", {facts['module']}" if facts.get("module") else ""  # of a Jetson
    mode = facts.get("power_mode")
    power = f", {mode.get('name')}" if isinstance(mode, dict) else ""
    threads = settings.get("threads")
    shape = "x".join(str(size) for size in row["input"])
    runtime = re.sub(r"\s+\d[\w.+-]*", "", row["runtime"])  # versions come and go
    count = f"{threads} thread{'' if threads == 1 else 's'}"
    cpu = machine.get("cpu") or "unknown"
    return f"{cpu}{module}{chip}{power}, {runtime}, {count}, {shape}"


def _moment(created: str) -> datetime:
    """When it was; what is no time comes first."""
    try:
        moment = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return datetime.min.replace(tzinfo=timezone.utc)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
