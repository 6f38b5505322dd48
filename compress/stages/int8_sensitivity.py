"""Stage ``int8_sensitivity``: quantize one layer at a time and measure what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import onnx
from torch import nn

from bench.loop import Minimum
from bench.profile.layer_times import layer_times
from bench.profile.onnxruntime_times import node_times
from compress.data.subset import write_subset
from compress.models.checkpoint import load_checkpoint
from compress.models.evaluate import evaluate
from compress.models.exportable import fused_copy
from compress.models.images import ImageBatches, pick
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.pipeline.files import read_json, write_json
from compress.quantize.prepare import float_graph
from compress.quantize.sensitivity import (
    LayerNoise,
    layers_alone,
    measure,
    raw_head,
    report,
    worst_first,
)
from compress.recipe.schema import Int8SensitivityStage
from compress.stages.checkpoints import check_classes
from compress.stages.quantization import calibrated
from export.dialects import write_dialect
from export.graph_view import block_name
from export.ranges import Ranges

SENSITIVITY_FILE = "int8_sensitivity.json"
SURE_IMAGES = 32
_TIMED = "onnxruntime"  # whose profiler names the operators
_PROFILE = Minimum(seconds=2.0, count=11)


def run(
    config: Int8SensitivityStage, inputs: Mapping[str, Artifact], context: Context
) -> StageResult:
    """Measure the chain's checkpoint on images of the train split: val must not rank layers."""
    model = load_checkpoint(inputs["checkpoint"].path)
    check_classes(model, context, "the model")
    images = pick(context.data.splits["train"], config.images, context.seed)
    found = calibrated(model, config, context)
    model, simulation = found.parent, found.simulation
    graph = float_graph(model, context.imgsz)
    ranges = simulation.ranges(config.target, [0.0] * len(simulation.placement.groups))
    dense, rows = _measured(model, graph, ranges, images, context)
    lost = _lost_times(graph, ranges, context) if _TIMED in config.target else {}
    rows = [replace(row, lost_ms=lost.get(block_name(row.layer))) for row in rows]
    settings = {"targets": list(config.target), "images": len(images)}
    write_json(context.out / SENSITIVITY_FILE, report(dense, rows, settings))
    measured = {"dense": dense, "rows": [asdict(row) for row in worst_first(rows)]}
    return StageResult(
        files={"int8_sensitivity": SENSITIVITY_FILE},
        metrics={"int8_sensitivity": measured, "notes": _notes(config, dense, len(images))},
    )


def _measured(
    model: nn.Module,
    graph: onnx.ModelProto,
    ranges: Ranges,
    images: Sequence[Path],
    context: Context,
) -> tuple[float, list[LayerNoise]]:
    """Float mAP and all rows; a killed run goes on behind its last finished one."""
    subset = write_subset(context.data, images, context.scratch / "images")
    accuracy = partial(_map, subset, context)
    fused = fused_copy(model)
    batches = list(ImageBatches(tuple(images), context.imgsz))
    log = context.scratch / "rows.json"
    done = read_json(log)
    with context.progress.task("mAP with one layer in INT8", len(ranges.convs) + 1) as bar:
        dense = float(done["dense"]) if "dense" in done else accuracy(fused)
        rows = [LayerNoise(**row) for row in done.get("rows", [])]
        bar.advance(1 + len(rows))
        left = ranges.convs[len(rows) :]
        alone = layers_alone(fused, graph, ranges, left)
        for row in measure(alone, raw_head(fused, batches), batches, dense, accuracy):
            rows.append(row)
            write_json(log, {"dense": dense, "rows": [asdict(entry) for entry in rows]})
            bar.advance(1, f"{block_name(row.layer)} {row.sqnr:.0f} dB {-row.drop:+.3f}")
    return dense, rows


def _map(data: Path, context: Context, model: nn.Module) -> float:
    return evaluate(model, data, context.imgsz, device=context.first_device).map50_95


def _lost_times(graph: onnx.ModelProto, ranges: Ranges, context: Context) -> dict[str, float]:
    """Layer -> milliseconds that it takes longer in float than in INT8, by ONNX Runtime."""
    files = {name: context.scratch / f"{name}.onnx" for name in ("float", "int8")}
    onnx.save(graph, str(files["float"]))
    write_dialect(_TIMED, files["float"], ranges, files["int8"])
    times = node_times(files, threads=1, minimum=_PROFILE, seed=context.seed)
    before, after = (layer_times(times[name]) for name in files)
    return {layer: ms - after.get(layer, 0.0) for layer, ms in before.items()}


def _notes(config: Int8SensitivityStage, dense: float, images: int) -> list[str]:
    notes = [f"measured on {images} images of the train split"]
    if images < SURE_IMAGES:
        notes.append(f"fewer than {SURE_IMAGES} images: small drops of mAP are noise")
    if dense == 0:
        notes.append("the float model finds nothing on these images: its drops say nothing")
    if _TIMED not in config.target:
        notes.append(f"no time was measured, since {_TIMED} is not among the targets")
    return notes
