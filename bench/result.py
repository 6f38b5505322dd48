"""The shape of a bench result, schema 1: plain dicts, ready for ``json.dumps``."""

from __future__ import annotations

from typing import Any, TypedDict

SCHEMA = 1


class Latency(TypedDict):
    """Milliseconds of one batch, ``cv`` a share. None: too few samples for that percentile."""

    p50: float
    p90: float | None
    p99: float | None
    mean: float
    cv: float
    count: int


class Row(TypedDict):
    """One file. ``fps`` is images/s of inference alone; ``speedup`` is against the first row.

    ``runtime`` is its name and version, ``float_type`` what layers that are not INT8 compute in.
    """

    file: str
    label: str
    runtime: str
    float_type: str
    sha256: str
    bytes: int
    input: list[int]
    latency_ms: Latency
    fps: float
    speedup: float
    speedup_ci: list[float]


class BenchResult(TypedDict):
    """All rows of one interleaved run. ``samples_ns`` maps each label to its raw latencies."""

    schema: int
    machine: dict[str, Any]
    settings: dict[str, Any]
    interference: dict[str, float]
    warnings: list[str]
    rows: list[Row]
    samples_ns: dict[str, list[int]]
