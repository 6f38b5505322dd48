"""What the report says of pruning: targets, trials, steps, sensitivity, channels; as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.report import numbers
from compress.report.figures import Run, metrics, pruned_channels, ratio, stages
from compress.report.table import Column, Row, Table, number_columns, text_columns
from compress.report.tables import gate_number, metric_name

_RESOURCES = {"macs": "MACs", "params": "parameters", "latency": "time"}

Layers = Mapping[str, tuple[int, int]]  # layer -> channels before and after
Rows = Sequence[Mapping[str, Any]]


def targets(run: Run) -> Table:
    """One row a prune stage: what was asked for, what was reached, how fast the file is."""
    columns = (
        *text_columns("Stage", "Share of"),
        *number_columns("Target", "Achieved", "MACs kept"),
        *text_columns("Pruned layers", "Left whole"),
        *(Column(title, "Time") for title in ("parent, ms", "own, ms", "speedup")),
        Column("95 % interval", "Time", numeric=False),
    )
    pruned = [stage for stage in stages(run) if stage.get("stage") == "prune"]
    return Table(columns, tuple(Row(_target_cells(run, stage)) for stage in pruned))


def _target_cells(run: Run, stage: Mapping[str, Any]) -> tuple[str, ...]:
    found, name = metrics(stage), str(stage.get("name", ""))
    target, timing = found.get("target") or {}, found.get("timing") or {}
    resource = str(target.get("resource", ""))
    align = (stage.get("config") or {}).get("align")
    return (
        name,
        _RESOURCES.get(resource, resource) or numbers.DASH,
        numbers.percent(target.get("keep")),
        numbers.percent(target.get("kept")),
        numbers.percent(found.get("macs_kept")),
        _alignment(pruned_channels(run).get(name, {}), align),
        str(len(found.get("left_whole") or {})),
        numbers.milliseconds(timing.get("parent_ms")),
        numbers.milliseconds(timing.get("ms")),
        numbers.times(timing.get("speedup")),
        " to ".join(numbers.times(end) for end in timing.get("speedup_ci") or [None]),
    )


def _alignment(layers: Layers, align: int | None) -> str:
    """How many layers lost channels, and whether what they have left is aligned."""
    pruned = [after for before, after in layers.values() if after < before]
    if not align:
        return f"{len(pruned)} of {len(layers)}"
    aligned = sum(after % align == 0 for after in pruned)
    kept = "all" if aligned == len(pruned) else f"{aligned} of them"
    return f"{len(pruned)} of {len(layers)}; {kept} a multiple of {align}"


def trials(run: Run) -> Table:
    """Every trial of a back-off with its gates; what held stands out."""
    columns = (
        *number_columns("Trial"),
        *text_columns("Prune stage", "Target"),
        *number_columns("Achieved"),
        *text_columns("Gate of", "Metric"),
        *number_columns("Value", "Limit"),
        *text_columns("Result", "Kept in the cache"),
    )
    rows = [
        Row(_trial_cells(trial, gate), stands_out=bool(trial.get("passed")))
        for trial in run.get("trials") or []
        for gate in trial.get("gates") or []
    ]
    return Table(columns, tuple(rows))


def _trial_cells(trial: Mapping[str, Any], gate: Mapping[str, Any]) -> tuple[str, ...]:
    target = (trial.get("target") or {}).items()
    folders = (trial.get("kept_in") or {}).values()
    return (
        str(trial.get("trial", "")),
        str(trial.get("prune", "")),
        ", ".join(f"{unit} {value:g}" for unit, value in target),
        numbers.percent(trial.get("achieved")),
        str(trial.get("stage", "")),
        metric_name(gate.get("metric")),
        gate_number(gate.get("metric"), gate.get("value")),
        gate_number(gate.get("metric"), gate.get("limit")),
        "passed" if gate.get("passed") else "missed",
        ", ".join(Path(str(folder)).name for folder in folders),
    )


def steps_of(run: Run) -> dict[str, Rows]:
    """Stage -> its pruning steps, of each stage that pruned in several."""
    return {
        str(stage.get("name")): found
        for stage in stages(run)
        if isinstance(found := metrics(stage).get("steps"), list) and found
    }


def steps(found: Rows) -> Table:
    """What was left after each pruning step and the training behind it."""
    rows = [
        Row(
            (
                str(number),
                numbers.percent(step.get("keep")),
                numbers.percent(step.get("macs_kept")),
                numbers.precision(step.get("map50_95")),
            )
        )
        for number, step in enumerate(found, start=1)
    ]
    return Table(number_columns("Step", "Target", "MACs kept", "mAP50-95"), tuple(rows))


def sensitivities(run: Run) -> dict[str, Rows]:
    """Stage -> rows of its layers, the most sensitive first, of each stage that measured it."""
    return {
        str(stage.get("name")): sorted(rows, key=lambda row: -(row.get("drop") or 0.0))
        for stage in stages(run)
        if (rows := (metrics(stage).get("sensitivity") or {}).get("rows"))
    }


def sensitivity(rows: Rows) -> Table:
    """mAP50-95 with one layer cut at a time."""
    found = [
        Row(
            (
                str(row.get("layer", "")),
                numbers.precision(row.get("map50_95")),
                numbers.points(None if row.get("drop") is None else -row["drop"]),
            )
        )
        for row in rows
    ]
    columns = (*text_columns("Layer cut"), *number_columns("mAP50-95", "Points"))
    return Table(columns, tuple(found))


def channels(layers: Layers) -> Table:
    """Channels of each layer before and after pruning."""
    rows = [
        Row((layer, str(before), str(after), numbers.percent(ratio(after, before))))
        for layer, (before, after) in layers.items()
    ]
    return Table((*text_columns("Layer"), *number_columns("Before", "After", "Kept")), tuple(rows))
