"""What ``ptq`` and ``qat`` share: placement, calibration, and writing checkpoint and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from compress.data.leaks import refuse_leaks
from compress.models.exportable import unfuse_into
from compress.models.images import ImageBatches, pick
from compress.pipeline.contract import Context, StageResult
from compress.quantize.calibration import calibrate
from compress.quantize.equalization import equalization_note, equalized
from compress.quantize.prepare import float_graph, simulate
from compress.quantize.range_check import check_ranges
from compress.quantize.simulation import Simulation
from compress.recipe.sections import Quantization
from compress.stages.checkpoints import checkpoint_result
from compress.stages.placement_choice import float_layers_of

RANGES_FILE = "ranges.json"
FEW_IMAGES = 100


def calibration_images(config: Quantization, context: Context) -> ImageBatches:
    """Images of the train split, chosen by the recipe's seed; one of val or test is refused."""
    images = pick(context.data.splits["train"], config.calibration.images, context.seed)
    refuse_leaks(images, context.data.splits, "calibration")
    return ImageBatches(tuple(images), context.imgsz)


def calibrated(
    model: nn.Module, config: Quantization, context: Context, float_layers: tuple[str, ...] = ()
) -> Simulation:
    """A fused copy of ``model`` under simulation, with ranges from images of the train split.

    ``float_layers`` come on top of the recipe's.
    """
    calibration = config.calibration
    if config.equalize:
        model, _ = equalized(model, float_graph(model, context.imgsz))
    named, _ = float_layers_of(model, config, context)
    simulation = simulate(
        model,
        context.imgsz,
        [*named, *float_layers],
        config.target,
        config.quantize_head,
        config.weight_bits,
    )
    images = calibration_images(config, context)
    with context.progress.task(f"calibrating on {len(images.paths)} images", 1) as bar:
        calibrate(simulation, images, calibration.method, calibration.percentile)
        bar.advance()
    return simulation


def quantized_result(
    simulation: Simulation,
    parent: nn.Module,
    config: Quantization,
    context: Context,
    metrics: Mapping[str, Any] | None = None,
) -> StageResult:
    """Write ranges and a stock checkpoint; mAP is measured under simulation."""
    images = calibration_images(config, context)
    check = check_ranges(simulation, images)
    clipped = check.clipped
    simulation.ranges(config.target, clipped).save(context.out / RANGES_FILE)
    notes = [f"ranges calibrated on {len(images.paths)} images of the train split", *check.notes]
    if config.timed:  # measured before, so this only reads it
        notes += float_layers_of(parent, config, context)[1]
    if config.equalize:
        notes.append(equalization_note(float_graph(parent, context.imgsz)))
    if len(images.paths) < FEW_IMAGES:
        notes.append(f"fewer than {FEW_IMAGES} calibration images: ranges may be too narrow")
    return checkpoint_result(
        unfuse_into(simulation.model, parent),
        context,
        measured=simulation.model,
        metrics={"notes": notes, "clipped_share": max(clipped), **(metrics or {})},
        files={"ranges": RANGES_FILE},
    )
