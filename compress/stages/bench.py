"""Stage ``bench``: latency, size and mAP of the exported files, base against result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.run import bench_files
from compress.models.detections import draw_side_by_side
from compress.models.evaluate import evaluate
from compress.models.images import pick
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.recipe.schema import BenchStage

_GRAPH = "graph."
_INT8 = "int8-"
_RUNS_HERE = f"{_INT8}onnxruntime"
_PICTURES = 3


def run(config: BenchStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Measure all graphs in one interleaved run, then the mAP of each file.

    Raises:
        CompressError: if a split that the recipe asks for is not in the data.
        BenchAlignmentError: if the result has channels that are no multiple of ``align``.
    """
    graphs = {k.removeprefix(_GRAPH): a.path for k, a in inputs.items()}
    timed = {k: p for k, p in graphs.items() if not k.startswith(_INT8) or k == _RUNS_HERE}
    result = list(timed)[-1]
    with context.progress.task("latency", 100) as bar:
        measured = bench_files(
            list(timed.values()),
            device=config.device,
            threads=config.threads,
            min_seconds=config.min_seconds,
            min_count=config.min_count,
            seed=context.seed,
            align=config.align,
            align_labels=[result],
            labels=list(timed),
            progress=bar.advance,
        )
    (context.out / "bench.json").write_text(json.dumps(measured, indent=1) + "\n")
    accuracy = _accuracy(graphs, config, context)
    latency = {row["label"]: row for row in measured["rows"]}
    rows = [_row(name, path, graphs, latency.get(name), accuracy) for name, path in graphs.items()]
    base = next(iter(graphs))
    pictures = pick(context.data.splits["val"], _PICTURES, context.seed)
    titles = {f"{base} (FP32)": graphs[base], f"{result}": graphs[result]}
    draw_side_by_side(titles, pictures, context.imgsz, context.out / "detections.jpg")
    return StageResult(
        files={"measurements": "bench.json", "detections": "detections.jpg"},
        metrics={
            "bench": {
                "rows": rows,
                "result": result,
                "machine": measured["machine"],
                "settings": measured["settings"],
                "warnings": measured["warnings"],
            }
        },
    )


def _accuracy(
    graphs: Mapping[str, Path], config: BenchStage, context: Context
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {name: {} for name in graphs}
    with context.progress.task("mAP of the files", len(graphs) * len(config.splits)) as bar:
        for name, path in graphs.items():
            for split in config.splits:
                accuracy = evaluate(path, context.data.yaml, context.imgsz, split)
                found[name][split] = asdict(accuracy)
                bar.advance(1, f"{name} on {split}")
    return found


def _row(
    name: str,
    path: Path,
    graphs: Mapping[str, Path],
    latency: Mapping[str, Any] | None,
    accuracy: Mapping[str, Any],
) -> dict[str, Any]:
    int8 = name.startswith(_INT8)
    owner = [graph for graph in graphs if not graph.startswith(_INT8)][-1] if int8 else name
    row = {
        "graph": name,
        "stage": owner,
        "precision": "int8" if int8 else "fp32",
        "bytes": path.stat().st_size,
        "map": accuracy[name],
    }
    if latency is None:  # made for a runtime that this machine does not have
        return row
    timing = {key: latency[key] for key in ("latency_ms", "fps", "speedup", "speedup_ci")}
    return {**row, **timing}
