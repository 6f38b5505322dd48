"""Stage ``prune``: aligned channels of lowest importance go until the MACs target is met."""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.checkpoint import load_checkpoint
from compress.models.inspect import conv_widths
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.prune.prune import prune_model
from compress.recipe.schema import PruneStage
from compress.stages.checkpoints import checkpoint_result


def run(config: PruneStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Prune the chain's checkpoint."""
    parent = load_checkpoint(inputs["checkpoint"].path)
    pruned = prune_model(
        parent,
        imgsz=context.imgsz,
        keep_macs=config.target.macs,
        align=config.align,
        max_pruned=config.max_pruned,
        ignore=config.ignore,
    )
    after = conv_widths(pruned.model)
    channels = {name: [width, after[name]] for name, width in conv_widths(parent).items()}
    kept = pruned.plan.macs_after / pruned.plan.macs_before
    return checkpoint_result(
        pruned.model,
        context,
        metrics={"channels": channels, "macs_kept": kept, "macs_target": config.target.macs},
    )
