"""BatchNorm statistics for a model whose layers were changed."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from compress.models.batchnorm import reestimate
from compress.pipeline.contract import Context


def settled(
    model: nn.Module,
    images: int,
    context: Context,
    measure: Callable[[nn.Module], float],
    as_is: str,
) -> tuple[nn.Module, dict[str, float]]:
    """``model`` with BatchNorm statistics re-estimated, where that is better on val.

    It wins back much of what the change cost where the net was trained on images like these;
    where statistics come from far more, or from augmented images, they may be better as is.

    Args:
        model: whose layers were changed.
        images: of the train split; 0 leaves the statistics alone.
        context: of the stage.
        measure: mAP on val of a model.
        as_is: what to call the model's own mAP among the figures.

    Returns:
        The better one, and the mAP of both (nothing where ``images`` is 0).
    """
    if images == 0:
        return model, {}
    candidate = reestimate(
        model,
        context.data.yaml,
        context.imgsz,
        images,
        seed=context.seed,
        device=context.first_device,
        progress=context.progress,
    )
    kept, found = measure(model), measure(candidate)
    return (candidate if found > kept else model), {as_is: kept, "reestimated": found}
