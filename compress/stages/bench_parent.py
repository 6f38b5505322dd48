"""INT8 files against their float parents, and what to blame where they are slower."""

from __future__ import annotations

from typing import Any

from bench.entries import OPENVINO
from bench.loop import Minimum
from bench.profile.layer_times import slower_layers
from bench.profile.onnxruntime_times import node_times
from bench.profile.openvino_times import openvino_node_times
from bench.results.schema import BenchResult
from bench.statistics import median_ratio
from compress.pipeline.contract import Context
from compress.stages.bench_plan import Plan, Shot
from export.int8_layers import float_convs

_PROFILE = Minimum(seconds=2.0, count=11)


def against_parent(
    plan: Plan, measured: BenchResult, threads: int, context: Context
) -> dict[str, dict[str, Any]]:
    """Label -> ``parent`` of every INT8 file that was timed.

    That is the parent's label as ``graph``, how many times faster the file is as ``speedup`` with
    ``speedup_ci`` (95 %), the ``float_convs`` in it, and, only where it is slower beyond noise, as
    ``blame`` the layers that became slower (``layer``, ``parent_ms``, ``ms``).

    Raises:
        BenchError: a runtime cannot run a file.
    """
    found: dict[str, dict[str, Any]] = {}
    samples = measured["samples_ns"]
    for label, shot in plan.timed.items():
        if shot.parent is None:
            continue
        ratio = median_ratio(samples[shot.parent], samples[label], seed=context.seed)
        slower = ratio.high < 1
        found[label] = {
            "parent": {
                "graph": shot.parent,
                "speedup": ratio.value,
                "speedup_ci": [ratio.low, ratio.high],
                "float_convs": float_convs(shot.path),
                "blame": _blame(plan.shots[shot.parent], shot, threads, context) if slower else [],
            }
        }
    return found


def _blame(parent: Shot, shot: Shot, threads: int, context: Context) -> list[dict[str, Any]]:
    files = {"parent": parent.path, "int8": shot.path}
    profiler = openvino_node_times if shot.runtime == OPENVINO else node_times
    with context.progress.task("times of layers", 1) as bar:
        times = profiler(files, threads=threads, minimum=_PROFILE, seed=context.seed)
        bar.advance(1)
    return [
        {"layer": entry.layer, "parent_ms": entry.base_ms, "ms": entry.ms}
        for entry in slower_layers(times["parent"], times["int8"])
    ]
