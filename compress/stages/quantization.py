"""What ``ptq`` and ``qat`` share: calibration images, and writing checkpoint and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from compress.models.exportable import unfuse_into
from compress.models.images import image_batches, pick
from compress.pipeline.contract import Context, StageResult
from compress.quantize.prepare import Prepared, prepare
from compress.recipe.schema import Quantization
from compress.stages.checkpoints import checkpoint_result

RANGES_FILE = "ranges.json"
FEW_IMAGES = 100


def calibrated(model: nn.Module, config: Quantization, context: Context) -> Prepared:
    """``model`` under simulation, with ranges from images of the train split."""
    calibration = config.calibration
    images = pick(context.data.splits["train"], calibration.images, context.seed)
    with context.progress.task(f"calibrating on {len(images)} images", 1) as bar:
        prepared = prepare(
            model,
            context.imgsz,
            config.float_layers,
            image_batches(images, context.imgsz),
            calibration.method,
            calibration.percentile,
        )
        bar.advance()
    return prepared


def quantized_result(
    prepared: Prepared,
    parent: nn.Module,
    config: Quantization,
    context: Context,
    metrics: Mapping[str, Any] | None = None,
) -> StageResult:
    """Write ranges and a stock checkpoint; mAP is measured under simulation."""
    ranges = prepared.simulation.ranges(config.target, prepared.clipped)
    ranges.save(context.out / RANGES_FILE)
    images = min(config.calibration.images, len(context.data.splits["train"]))
    notes = [f"ranges calibrated on {images} images of the train split"]
    if images < FEW_IMAGES:
        notes.append(f"fewer than {FEW_IMAGES} calibration images: ranges may be too narrow")
    return checkpoint_result(
        unfuse_into(prepared.model, parent),
        context,
        measured=prepared.model,
        metrics={"notes": notes, "clipped_share": max(prepared.clipped), **(metrics or {})},
        files={"ranges": RANGES_FILE},
    )
