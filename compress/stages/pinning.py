"""Which layers stay float so that the stage's gate on mAP holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from compress.models.evaluate import evaluate
from compress.pipeline.contract import Context
from compress.quantize.sensitivity import float_candidates
from compress.quantize.simulation import Simulation
from compress.recipe.sections import CheckpointGates, Quantization

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
    val (before any training) has lost no more against the float parent than ``accept`` lets it, or
    the share is reached. Without a gate the whole share stays float.

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
    allowed = _largest_drop(config)
    if allowed is None:
        return calibrate(candidates), [_note(candidates, "no gate says when to stop")]
    clean = _map(parent, context)
    count = 0
    while True:
        simulation = calibrate(candidates[:count])
        drop = clean - _map(simulation.model, context)
        if drop <= allowed or count >= len(candidates):
            why = f"{-100 * drop:+.2f} points of mAP50-95 to its float parent before training"
            return simulation, [_note(candidates[:count], why)]
        count = min(max(1, 2 * count), len(candidates))


def _largest_drop(config: Quantization) -> float | None:
    gates = getattr(config, "accept", None)  # a sensitivity stage has none
    gate = gates.map50_95 if isinstance(gates, CheckpointGates) else None
    return None if gate is None else gate.max_drop


def _map(model: nn.Module, context: Context) -> float:
    data = context.data.yaml
    return evaluate(model, data, context.imgsz, device=context.first_device).map50_95


def _note(layers: list[str], why: str) -> str:
    names = ", ".join(layers) if layers else "none"
    return f"layers that stay float by their sensitivity: {names} ({why})"
