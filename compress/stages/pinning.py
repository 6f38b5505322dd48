"""Which layers stay float so that the stage's gate on mAP holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from compress.models.evaluate import Accuracy, evaluate
from compress.pipeline.contract import Context
from compress.quantize.sensitivity import float_candidates
from compress.quantize.simulation import Simulation
from compress.recipe.sections import CheckpointGates, Quantization

_TITLES = {"map50_95": "mAP50-95", "map50": "mAP50"}
Calibrate = Callable[[Sequence[str]], Simulation]


def pinned(
    parent: nn.Module,
    config: Quantization,
    sensitivity: Mapping[str, Any] | None,
    context: Context,
    calibrate: Calibrate,
) -> tuple[Simulation, list[str]]:
    """A calibrated simulation in which as few layers stay float as the gate allows.

    Without a sensitivity stage in front, or with ``max_float_share: 0``, none is kept. Layers are
    taken in the order that the sensitivity stage found, twice as many each time, until the mAP on
    val (before any training) has lost no more against the float parent than ``accept`` allows,
    or the share is reached. Without a gate the whole share stays float.

    Args:
        parent: the float model, not fused.
        config: of the stage.
        sensitivity: content of an ``int8_sensitivity.json``.
        context: of the stage.
        calibrate: gives the simulation in which these layers stay float.

    Returns:
        The simulation, and notes for the report.
    """
    if sensitivity is None or not config.max_float_share:
        return calibrate([]), []
    candidates = float_candidates(sensitivity, config.max_float_share)
    allowed = _largest_drops(config)
    if not allowed:
        return calibrate(candidates), [_note(candidates, "no gate says when to stop")]
    clean = _accuracy(parent, context)
    count = 0
    while True:
        simulation = calibrate(candidates[:count])
        found = _accuracy(simulation.model, context)
        drops = {metric: getattr(clean, metric) - getattr(found, metric) for metric in allowed}
        if all(drop <= allowed[m] for m, drop in drops.items()) or count >= len(candidates):
            points = [f"{-100 * drop:+.2f} points of {_TITLES[m]}" for m, drop in drops.items()]
            why = f"{', '.join(points)} to its float parent before training"
            return simulation, [_note(candidates[:count], why)]
        count = min(max(1, 2 * count), len(candidates))


def _largest_drops(config: Quantization) -> dict[str, float]:
    gates = getattr(config, "accept", None)  # a sensitivity stage has none
    if not isinstance(gates, CheckpointGates):
        return {}
    named = {"map50_95": gates.map50_95, "map50": gates.map50}
    return {metric: gate.max_drop for metric, gate in named.items() if gate is not None}


def _accuracy(model: nn.Module, context: Context) -> Accuracy:
    return evaluate(model, context.data.yaml, context.imgsz, device=context.first_device)


def _note(layers: list[str], why: str) -> str:
    names = ", ".join(layers) if layers else "none"
    return f"layers that stay float by their sensitivity: {names} ({why})"
