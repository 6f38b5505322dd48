"""Stage ``finetune``: win back what pruning cost, or prepare for it; teachers are optional."""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.checkpoint import load_checkpoint
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.prune.sparsity import Sparsity
from compress.recipe.schema import FinetuneStage
from compress.stages.checkpoints import (
    check_classes,
    checkpoint_result,
    fit,
    with_weights,
)
from compress.stages.distillation import distillation


def run(config: FinetuneStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Train the chain's checkpoint; its structure stays as it is."""
    student_file = inputs["checkpoint"].path
    student = load_checkpoint(student_file)
    check_classes(student, context, "the student")
    extensions = distillation(config.distill, inputs, context)
    if config.sparsity is not None:
        kind, weight, final = config.sparsity.kind, config.sparsity.weight, config.sparsity.final
        extensions.append(Sparsity(kind, weight, final, config.train.epochs))
    training = fit(student, config.train, context, config.name, extensions)
    model = with_weights(load_checkpoint(student_file), training)
    return checkpoint_result(model, context, metrics={"curves": training.curves})
