"""Stage ``prune``: aligned channels of lowest importance go until the MACs target is met."""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.checkpoint import load_checkpoint
from compress.models.inspect import conv_widths
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.prune.prune import prune_model
from compress.prune.solver import TOLERANCE
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
        metrics={
            "channels": channels,
            "macs_kept": kept,
            "macs_target": config.target.macs,
            "notes": _notes(kept, config),
        },
    )


def _notes(kept: float, config: PruneStage) -> list[str]:
    if abs(kept / config.target.macs - 1) <= TOLERANCE:
        return []
    return [
        f"{kept:.1%} of the MACs are left where {config.target.macs:.1%} were asked for: blocks of "
        f"{config.align} channels come no closer"
    ]
