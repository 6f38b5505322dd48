"""Which layers stay float so that the stage's gate on mAP holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from compress.models.evaluate import evaluate
from compress.pipeline.contract import Artifact, Context
from compress.pipeline.files import read_json
from compress.quantize.sensitivity import float_candidates
from compress.quantize.simulation import Simulation
from compress.recipe.schema import PtqStage, QatStage
from compress.recipe.sections import CheckpointGates

Calibrate = Callable[[tuple[str, ...]], Simulation]


def pinned(
    parent: nn.Module,
    config: PtqStage | QatStage,
    inputs: Mapping[str, Artifact],
    context: Context,
    calibrate: Calibrate,
) -> tuple[Simulation, list[str]]:
    """A calibrated simulation in which as few layers stay float as the gate allows.

    Without a sensitivity stage in front, or with ``max_float_share: 0``, none is kept. Layers are
    taken in the order that the sensitivity stage found, twice as many each time, until the mAP on
    val (before any training) has lost no more against the float parent than ``accept`` lets it, or
    the share is reached. Without a gate the whole share stays float.

    Args:
        parent: the float model, not fused.
        config: of the stage.
        inputs: of the stage.
        context: of the stage.
        calibrate: gives the simulation in which these layers stay float.

    Returns:
        The simulation, and notes for the report.
    """
    if "int8_sensitivity" not in inputs or not config.max_float_share:
        return calibrate(()), []
    content = read_json(inputs["int8_sensitivity"].path)
    candidates = float_candidates(content, config.max_float_share)
    allowed = _largest_drop(config.accept)
    if allowed is None:
        return calibrate(tuple(candidates)), [_note(candidates, "no gate says when to stop")]
    clean = _map(parent, context)
    count = 0
    while True:
        simulation = calibrate(tuple(candidates[:count]))
        drop = clean - _map(simulation.model, context)
        if drop <= allowed or count >= len(candidates):
            why = f"{-100 * drop:+.2f} points of mAP50-95 to its float parent before training"
            return simulation, [_note(candidates[:count], why)]
        count = min(max(1, 2 * count), len(candidates))


def _largest_drop(gates: CheckpointGates) -> float | None:
    return None if gates.map50_95 is None else gates.map50_95.max_drop


def _map(model: nn.Module, context: Context) -> float:
    data = context.data.yaml
    return evaluate(model, data, context.imgsz, device=context.first_device).map50_95


def _note(layers: list[str], why: str) -> str:
    names = ", ".join(layers) if layers else "none"
    return f"layers that stay float by their sensitivity: {names} ({why})"
