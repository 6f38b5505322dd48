"""Stage ``qat``: train weights and ranges under fake quantization, with or without teachers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

from compress.models.checkpoint import load_checkpoint
from compress.models.trainer import TrainingExtension
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.quantize.damping import Damping
from compress.quantize.noise import WeightNoise
from compress.quantize.scales import ScaleTraining, set_up_training
from compress.quantize.simulation import Simulation
from compress.recipe.schema import QatStage
from compress.stages.checkpoints import check_classes, fit, with_weights
from compress.stages.distillation import distillation
from compress.stages.quantization import calibrated, measured_sensitivity, quantized_result


def run(config: QatStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Train the chain's checkpoint as the INT8 graph will compute it."""
    parent = load_checkpoint(inputs["checkpoint"].path)
    check_classes(parent, context, "the student")
    found = calibrated(parent, config, context, measured_sensitivity(inputs))
    student = found.simulation
    noise = WeightNoise(config.noise.kind, config.noise.share)
    set_up_training(student, config.ranges, config.weight_scales == "learned", noise)
    trained = deepcopy(student)
    extensions = [*distillation(config.distill, inputs, context), *_extensions(config, student)]
    training = fit(student.model, config.train, context, config.name, extensions)
    with_weights(trained.model, training)
    result = replace(found, simulation=trained)
    return quantized_result(result, config, context, metrics={"curves": training.curves})


def _extensions(config: QatStage, student: Simulation) -> list[TrainingExtension]:
    """What trains the scales, and keeps weights from swinging."""
    extensions: list[TrainingExtension] = [ScaleTraining()]
    if config.damping is not None:
        convs = student.placement.convs
        extensions.append(Damping(config.damping.weight, config.damping.start, convs))
    return extensions
