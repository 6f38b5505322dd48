"""Stage ``ptq``: INT8 ranges from calibration, weights untouched."""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.checkpoint import load_checkpoint
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.recipe.schema import PtqStage
from compress.stages.quantization import calibrated, quantized_result


def run(config: PtqStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Calibrate the chain's checkpoint."""
    parent = load_checkpoint(inputs["checkpoint"].path)
    return quantized_result(calibrated(parent, config, context), parent, config, context)
