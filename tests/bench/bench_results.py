"""Bench results made of known samples, as the bench writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.results.schema import SCHEMA, BenchResult, DeviceReport, Row
from bench.statistics import latency_of, median_ratio


def samples_of(
    milliseconds: float, seed: int = 0, count: int = 200, noise: float = 0.01
) -> list[int]:
    """Latencies around a median, some of them late."""
    generator = np.random.default_rng(seed)
    values = milliseconds * (1 + noise * generator.exponential(1.0, count))
    return [int(value * 1e6) for value in values]


def result_of(samples: Mapping[str, Sequence[int]], **changes: Any) -> BenchResult:
    """A whole result; ``changes`` replace top-level fields."""
    base = next(iter(samples.values()))
    result = BenchResult(
        schema=SCHEMA,
        complete=True,
        created="2026-03-01T10:00:00+00:00",
        host=None,
        machine={"cpu": "A CPU", "physical_cores": 4, "logical_cores": 8, "governor": None},
        device=DeviceReport(name="cpu", facts={}, before={}, after={}, trace=[]),
        settings={"device": "cpu", "threads": 1, "shape": None, "min_seconds": 5.0},
        interference={"other_cores": 0.0, "stolen_cores": None},
        warnings=[],
        rows=[row_of(label, base, series) for label, series in samples.items()],
        samples_ns={label: list(series) for label, series in samples.items()},
        parts_ns={label: {} for label in samples},
    )
    result.update(changes)  # type: ignore[typeddict-item]
    return result


def row_of(label: str, base: Sequence[int], samples: Sequence[int]) -> Row:
    latency, speedup = latency_of(samples), median_ratio(base, samples)
    return Row(
        file=f"{label}.onnx",
        label=label,
        runtime="ONNX Runtime 1.20.0",
        device="CPU",
        float_type="f32",
        sha256=hashlib.sha256(label.encode()).hexdigest(),
        source_sha256=None,
        bytes=3_000_000,
        input=[1, 3, 64, 64],
        latency_ms=latency,
        parts_ms={},
        fps=1000 / latency["p50"],
        speedup=speedup.value,
        speedup_ci=[speedup.low, speedup.high],
        end_to_end=None,
        throughput=None,
        energy=None,
        map={},
        notes=[],
    )
