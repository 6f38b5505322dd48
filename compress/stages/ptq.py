"""Stage ``ptq``: INT8 ranges from calibration; weights stay, biases may be corrected."""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.checkpoint import load_checkpoint
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.recipe.schema import PtqStage
from compress.stages.quantization import calibrated, measured_sensitivity, quantized_result


def run(config: PtqStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Calibrate the chain's checkpoint."""
    checkpoint = load_checkpoint(inputs["checkpoint"].path)
    found = calibrated(checkpoint, config, context, measured_sensitivity(inputs))
    return quantized_result(found, config, context)
