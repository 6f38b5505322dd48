"""Stage ``sensitivity``: cut one layer at a time and measure what that costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from compress.data.subset import write_subset
from compress.models.checkpoint import load_checkpoint
from compress.models.evaluate import evaluate
from compress.models.images import pick
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.pipeline.files import read_json, write_json
from compress.prune.prune import channel_units
from compress.prune.sensitivity import LayerCut, cut_layers, report
from compress.prune.structure import PrunableModel
from compress.recipe.schema import SensitivityStage
from compress.stages.checkpoints import check_classes
from compress.stages.importance import importance_of

SENSITIVITY_FILE = "sensitivity.json"
GRADIENT_BATCHES = 10
SURE_IMAGES = 32


def run(config: SensitivityStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Measure the chain's checkpoint on images of the train split: val must not plan a pruning."""
    model = load_checkpoint(inputs["checkpoint"].path)
    check_classes(model, context, "the model")
    images = pick(context.data.splits["train"], config.images, context.seed)
    measure = partial(_map, write_subset(context.data, images, context.scratch / "images"), context)
    dense, rows = _measured(model, config, context, measure)
    settings = {"importance": config.importance, "share": config.share, "images": len(images)}
    content = report(dense, rows, settings)
    write_json(context.out / SENSITIVITY_FILE, content)
    return StageResult(
        files={"sensitivity": SENSITIVITY_FILE},
        metrics={
            "sensitivity": {
                "dense": dense,
                "rows": [
                    {"layer": row.layer, "drop": row.drop, "map50_95": row.map50_95} for row in rows
                ],
            },
            "notes": _notes(dense, len(images)),
        },
    )


def _measured(
    model: nn.Module,
    config: SensitivityStage,
    context: Context,
    measure: Callable[[nn.Module], float],
) -> tuple[float, list[LayerCut]]:
    """Dense mAP and all rows; a killed run goes on behind its last finished one."""
    structure = PrunableModel(model, config.ignore)
    importance = importance_of(config.importance, model, context, GRADIENT_BATCHES)
    units = channel_units(structure, model, importance)
    log = _Log(context.scratch / "rows.json")
    with context.progress.task("mAP without a layer's channels", len(units) + 1) as bar:
        if log.dense is None:
            log.start(measure(model))
        dense = log.dense
        assert dense is not None
        bar.advance(1 + len(log.rows))
        left = units[len(log.rows) :]
        for row in cut_layers(structure, left, config.share, config.align, dense, measure):
            log.append(row)
            bar.advance(1, f"{row.layer} {-row.drop:+.3f}" if row else "")
    return dense, [row for row in log.rows if row is not None]


class _Log:
    """What has been measured so far, in a file that survives a kill."""

    def __init__(self, file: Path) -> None:
        self._file = file
        content = read_json(file)
        self.dense: float | None = content.get("dense")
        self.rows = [_row(values) if values else None for values in content.get("rows", [])]

    def start(self, dense: float) -> None:
        self.dense = dense
        self._write()

    def append(self, row: LayerCut | None) -> None:
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        rows = [asdict(row) if row else None for row in self.rows]
        write_json(self._file, {"dense": self.dense, "rows": rows})


def _row(values: Mapping[str, Any]) -> LayerCut:
    return LayerCut(**{**values, "roots": tuple(values["roots"])})


def _map(data: Path, context: Context, model: nn.Module) -> float:
    return evaluate(model, data, context.imgsz, device=context.first_device).map50_95


def _notes(dense: float, images: int) -> list[str]:
    notes = [f"measured on {images} images of the train split"]
    if images < SURE_IMAGES:
        notes.append(f"fewer than {SURE_IMAGES} images: small drops are noise")
    if dense == 0:
        notes.append("the dense model finds nothing on these images: its drops say nothing")
    return notes
