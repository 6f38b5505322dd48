"""What ``ptq`` and ``qat`` share: placement, calibration, and writing checkpoint and ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from compress.data.leaks import refuse_leaks
from compress.models.exportable import unfuse_into
from compress.models.images import ImageBatches, pick
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.pipeline.files import read_json
from compress.quantize.bias_correction import correct_biases
from compress.quantize.calibration import calibrate
from compress.quantize.equalization import equalization_note, equalized
from compress.quantize.prepare import float_graph, simulate
from compress.quantize.range_check import check_ranges
from compress.quantize.simulation import Simulation
from compress.recipe.schema import PtqStage
from compress.recipe.sections import Quantization
from compress.stages.checkpoints import checkpoint_result
from compress.stages.pinning import pinned
from compress.stages.placement_choice import float_layers_of

RANGES_FILE = "ranges.json"
FEW_IMAGES = 100


def calibration_images(config: Quantization, context: Context) -> ImageBatches:
    """Images of the train split, chosen by the recipe's seed; one of val or test is refused."""
    images = pick(context.data.splits["train"], config.calibration.images, context.seed)
    refuse_leaks(images, context.data.splits, "calibration")
    return ImageBatches(tuple(images), context.imgsz)


def measured_sensitivity(inputs: Mapping[str, Artifact]) -> Mapping[str, Any] | None:
    """What a sensitivity stage in front found on this very checkpoint, if there is one."""
    found = inputs.get("int8_sensitivity")
    return None if found is None else read_json(found.path)


@dataclass(frozen=True)
class Calibrated:
    """A simulation with its ranges, the float ``parent`` it was made of, and notes for the report.

    The parent is the chain's checkpoint, equalized if the recipe says so.
    """

    simulation: Simulation
    parent: nn.Module
    notes: tuple[str, ...] = ()


def calibrated(
    checkpoint: nn.Module,
    config: Quantization,
    context: Context,
    sensitivity: Mapping[str, Any] | None = None,
) -> Calibrated:
    """Fake INT8 with ranges from images of the train split.

    Args:
        checkpoint: float model, not fused.
        config: what becomes INT8.
        context: of the stage.
        sensitivity: content of an ``int8_sensitivity.json``: layers that may stay float.
    """
    parent, notes = checkpoint, []
    if config.equalize:
        graph = float_graph(checkpoint, context.imgsz)
        parent, _ = equalized(checkpoint, graph)
        notes.append(equalization_note(graph))
    named, choice = float_layers_of(parent, config, context)
    simulation, kept = pinned(
        parent, config, sensitivity, context, partial(_ranged, parent, config, context, named)
    )
    return Calibrated(simulation, parent, (*notes, *choice, *kept))


def _ranged(
    parent: nn.Module,
    config: Quantization,
    context: Context,
    named: Sequence[str],
    pinned_layers: Sequence[str],
) -> Simulation:
    simulation = simulate(
        parent,
        context.imgsz,
        [*named, *pinned_layers],
        config.target,
        config.quantize_head,
        config.weight_bits,
    )
    images = calibration_images(config, context)
    calibration = config.calibration
    with context.progress.task(f"calibrating on {len(images.paths)} images", 1) as bar:
        calibrate(simulation, images, calibration.method, calibration.percentile)
        if isinstance(config, PtqStage) and config.bias_correction:
            correct_biases(simulation, images)
        bar.advance()
    return simulation


def quantized_result(
    quantized: Calibrated,
    config: Quantization,
    context: Context,
    metrics: Mapping[str, Any] | None = None,
) -> StageResult:
    """Write ranges and a stock checkpoint; mAP is measured under simulation."""
    simulation = quantized.simulation
    images = calibration_images(config, context)
    check = check_ranges(simulation, images)
    simulation.ranges(config.target, check.clipped).save(context.out / RANGES_FILE)
    notes = [f"ranges calibrated on {len(images.paths)} images of the train split", *check.notes]
    if len(images.paths) < FEW_IMAGES:
        notes.append(f"fewer than {FEW_IMAGES} calibration images: ranges may be too narrow")
    return checkpoint_result(
        unfuse_into(simulation.model, quantized.parent),
        context,
        measured=simulation.model,
        metrics={
            "notes": [*notes, *quantized.notes],
            "clipped_share": max(check.clipped),
            **(metrics or {}),
        },
        files={"ranges": RANGES_FILE},
    )
