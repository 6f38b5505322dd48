"""Stage ``ptq``: INT8 ranges from calibration; weights stay, biases may be corrected."""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.checkpoint import load_checkpoint
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.quantize.bias_correction import correct_biases
from compress.recipe.schema import PtqStage
from compress.stages.quantization import (
    calibrated,
    calibration_images,
    measured_sensitivity,
    quantized_result,
)


def run(config: PtqStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Calibrate the chain's checkpoint."""
    checkpoint = load_checkpoint(inputs["checkpoint"].path)
    found = calibrated(checkpoint, config, context, measured_sensitivity(inputs))
    if config.bias_correction:
        correct_biases(found.simulation, calibration_images(config, context))
    return quantized_result(found, config, context)
