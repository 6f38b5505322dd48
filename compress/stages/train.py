"""Stage ``train``: the base or the teacher, from weights or from a model yaml."""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.build import build_model, knows_classes, knows_keypoints
from compress.models.checkpoint import load_checkpoint
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.recipe.schema import TrainStage
from compress.stages.checkpoints import check_classes, checkpoint_result, fit, with_weights
from compress.stages.distillation import distillation


def run(config: TrainStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Train, or take the weights as they are when ``config.when`` says so."""
    source = inputs["weights"].path
    names, keypoints = context.data.names, context.data.keypoint_shape
    if source.suffix == ".pt" and config.when != "always":
        model = load_checkpoint(source)
        if config.when == "never":
            check_classes(model, context, f"{config.role} '{source.name}'")
        if knows_classes(model, names) and knows_keypoints(model, keypoints):
            return checkpoint_result(model, context, metrics={"notes": ["weights taken as is"]})
    if config.train is None:
        # a fresh net from a model yaml, measured untrained: what `when: never` asks for
        return checkpoint_result(build_model(source, names, context.seed, keypoints), context)
    student = build_model(source, names, context.seed, keypoints)
    extensions = distillation(config.distill, inputs, context)
    training = fit(student, config.train, context, config.name, extensions)
    # built anew, so that the saved file depends on the weights alone
    model = with_weights(build_model(source, names, context.seed, keypoints), training)
    return checkpoint_result(model, context, metrics={"curves": training.curves})
