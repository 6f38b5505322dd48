"""Stage ``bench``: latency, size and mAP of the exported files, base against result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.results.schema import BenchResult
from bench.run import bench_files
from bench.settings import Settings
from compress.models.detections import draw_side_by_side
from compress.models.evaluate import evaluate
from compress.models.head_form import kind_of_file
from compress.models.images import pick
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.recipe.schema import BenchStage
from compress.stages.bench_parent import against_parent
from compress.stages.bench_plan import INT8, Plan, Shot, plan_shots

_GRAPH = "graph."
_PICTURES = 3


def run(config: BenchStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Measure all graphs in one interleaved run, then the mAP of each file.

    An INT8 file is timed in the runtime that it was made for, beside its float parent in the same
    one. What no runtime of this machine takes is not timed.

    Raises:
        CompressError: if a split that the recipe asks for is not in the data.
        BenchAlignmentError: if the result has channels that are no multiple of ``align``.
    """
    graphs = {k.removeprefix(_GRAPH): a.path for k, a in inputs.items()}
    plan = plan_shots(graphs)
    measured = _timed(plan, config, context)
    accuracy = _accuracy(plan, config, context)
    latency = {row["label"]: row for row in measured["rows"]}
    rows = [
        _row(label, shot, latency.get(label), accuracy.get(label, {}))
        for label, shot in plan.shots.items()
    ]
    parents = against_parent(plan, measured, config.threads, context)
    rows = [{**row, **parents.get(row["graph"], {})} for row in rows]
    base = next(iter(graphs))
    pictures = pick(context.data.splits["val"], _PICTURES, context.seed)
    titles = {f"{base} (FP32)": graphs[base]}
    if plan.result in accuracy:
        titles[plan.result] = graphs[plan.result]
    draw_side_by_side(titles, pictures, context.imgsz, context.out / "detections.jpg")
    return StageResult(
        files={"measurements": "bench.json", "detections": "detections.jpg"},
        metrics={
            "bench": {
                "rows": rows,
                "result": plan.result,
                "machine": measured["machine"],
                "settings": measured["settings"],
                "warnings": [
                    *measured["warnings"],
                    *plan.warnings,
                    *(
                        f"'{label}' has no mAP: its head is raw"
                        for label in plan.rated
                        if label not in accuracy
                    ),
                ],
            }
        },
    )


def _timed(plan: Plan, config: BenchStage, context: Context) -> BenchResult:
    timed = plan.timed
    with context.progress.task("latency", 100) as bar:
        measured = bench_files(
            [shot.path for shot in timed.values()],
            Settings(
                device=config.device,
                threads=config.threads,
                min_seconds=config.min_seconds,
                min_count=config.min_count,
                seed=context.seed,
                align=config.align,
                energy_seconds=0,
            ),
            runtimes=[shot.runtime for shot in timed.values()],
            labels=list(timed),
            align_labels=[plan.result],
            progress=bar.advance,
        )
    (context.out / "bench.json").write_text(json.dumps(measured, indent=1) + "\n")
    return measured


def _accuracy(plan: Plan, config: BenchStage, context: Context) -> dict[str, dict[str, Any]]:
    # raw maps are for runtimes that decode elsewhere: nothing here can rate them
    rated = {label: shot for label, shot in plan.rated.items() if kind_of_file(shot.path) != "raw"}
    found: dict[str, dict[str, Any]] = {label: {} for label in rated}
    with context.progress.task("mAP of the files", len(found) * len(config.splits)) as bar:
        for label, shot in rated.items():
            for split in config.splits:
                accuracy = evaluate(
                    shot.path, context.data.yaml, context.imgsz, split, runtime=shot.runtime
                )
                found[label][split] = asdict(accuracy)
                bar.advance(1, f"{label} on {split}")
    return found


def _row(
    label: str, shot: Shot, latency: Mapping[str, Any] | None, accuracy: Mapping[str, Any]
) -> dict[str, Any]:
    row = {
        "graph": label,
        "stage": shot.stage,
        "precision": "int8" if label.startswith(INT8) else "fp32",
        "bytes": shot.path.stat().st_size,
        "map": accuracy,
    }
    if latency is None:  # made for a runtime that this machine does not have
        return row
    keys = ("latency_ms", "fps", "speedup", "speedup_ci", "runtime", "float_type")
    return {**row, **{key: latency[key] for key in keys}}
