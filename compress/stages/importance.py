"""The importance that a recipe names, with the gradients that it needs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from compress.models.gradients import loss_gradients
from compress.pipeline.contract import Context
from compress.prune.prune import Importance
from compress.prune.scores import SCORES, random_score

GRADIENT_BATCH = 16


def importance_of(
    name: str,
    model: nn.Module,
    context: Context,
    batches: int,
    weights: Mapping[str, float] | None = None,
) -> Importance:
    """Importance ``name`` for channels of ``model``.

    Args:
        name: a key of ``SCORES``, or ``random``.
        model: whose channels are ranked.
        context: the stage's data, seed and device.
        batches: of train images, for taylor and hessian.
        weights: root -> factor on the scores.
    """
    weights = weights or {}
    if name == "random":
        return Importance(random_score(context.seed), weights=weights)

    def gradients(squared: bool) -> nn.Module:
        return loss_gradients(
            model,
            context.data.yaml,
            context.imgsz,
            batches=batches,
            batch=GRADIENT_BATCH,
            seed=context.seed,
            device=context.first_device,
            squared=squared,
            progress=context.progress,
        )

    return Importance(
        SCORES[name],
        gradient=gradients(squared=False) if name == "taylor" else None,
        curvature=gradients(squared=True) if name == "hessian" else None,
        weights=weights,
    )
