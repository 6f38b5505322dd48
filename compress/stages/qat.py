"""Stage ``qat``: train weights and ranges under fake quantization, with or without teachers."""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.checkpoint import load_checkpoint
from compress.models.exportable import fused_copy
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.quantize.scales import ScaleTraining
from compress.quantize.simulation import Simulation
from compress.recipe.schema import QatStage
from compress.stages.checkpoints import check_classes, fit, with_weights
from compress.stages.distillation import distillation
from compress.stages.quantization import calibrated, quantized_result


def run(config: QatStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Train the chain's checkpoint as the INT8 graph will compute it."""
    parent = load_checkpoint(inputs["checkpoint"].path)
    check_classes(parent, context, "the student")
    student = calibrated(parent, config, context)
    extensions = [*distillation(config.distill, inputs, context), ScaleTraining()]
    training = fit(student.model, config.train, context, config.name, extensions)
    trained = Simulation(fused_copy(parent), student.placement)
    with_weights(trained.model, training)
    return quantized_result(trained, parent, config, context, metrics={"curves": training.curves})
