"""The tables of the report, as text cells: Markdown and HTML show the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compress.report import numbers
from compress.report.figures import (
    Accuracy,
    Graph,
    Model,
    Run,
    base_model,
    graphs,
    models,
    result_model,
    splits,
    stages,
    training_curves,
)
from compress.report.table import Column, Row, Table, number_columns, text_columns

SHORT_HASH = 12
_METRICS = {
    "map50": "mAP50",
    "map50_95": "mAP50-95",
    "speedup": "speedup",
    "never_slower": "speedup to its parent, upper end",
    "size_share": "file size, share",
}


def summary(run: Run) -> Table:
    """One row a model: size, mAP in PyTorch and of the exported file, speed, difference to base."""
    base, result = base_model(run), result_model(run)
    rows = [Row(_summary_cells(run, model, base), model == result) for model in models(run)]
    return Table(_summary_columns(run), tuple(rows))


def _summary_columns(run: Run) -> tuple[Column, ...]:
    exported = [f"Exported, {split}" for split in splits(run)]
    return (
        *text_columns("Stage"),
        *number_columns("Params", "MACs", "MB"),
        *_accuracy_columns(["PyTorch, val", *exported]),
        Column("to base", "Points on val"),
        *(Column(title, "Latency") for title in ("p50 ms", "FPS", "speedup")),
    )


def _accuracy_columns(groups: Iterable[str]) -> list[Column]:
    return [Column(title, group) for group in groups for title in ("mAP50", "mAP50-95")]


def _summary_cells(run: Run, model: Model, base: Model | None) -> tuple[str, ...]:
    graph = model.graph
    accuracies = [model.torch, *(model.on(split) for split in splits(run))]
    return (
        f"{model.name} · INT8" if graph and graph.precision == "int8" else model.name,
        numbers.amount(model.params),
        numbers.amount(model.macs),
        numbers.megabytes(model.file_bytes),
        *_accuracy_cells(accuracies),
        numbers.points(model.drop(base)),
        numbers.milliseconds(model.p50),
        numbers.rate(graph.fps if graph else None),
        numbers.times(graph.speedup if graph else None),
    )


def _accuracy_cells(accuracies: Iterable[Accuracy]) -> list[str]:
    return [
        numbers.precision(value)
        for accuracy in accuracies
        for value in (accuracy.map50, accuracy.map50_95)
    ]


def gates(run: Run) -> Table:
    """Every ``accept`` gate with its value and limit."""
    rows = [
        Row(_gate_cells(stage, gate), stands_out=not gate.get("passed"))
        for stage in stages(run)
        for gate in stage.get("gates") or []
    ]
    columns = (*text_columns("Stage", "Metric"), *number_columns("Value", "Limit"))
    return Table((*columns, *text_columns("Against", "Result")), tuple(rows))


def _gate_cells(stage: Mapping[str, Any], gate: Mapping[str, Any]) -> tuple[str, ...]:
    metric, value, limit = (gate.get(key) for key in ("metric", "value", "limit"))
    side = "at most" if metric == "size_share" else "at least"
    passed = "passed" if gate.get("passed") else f"missed. To try: {gate.get('advice', '')}"
    return (
        str(stage.get("name", "")),
        metric_name(metric),
        gate_number(metric, value),
        f"{side} {gate_number(metric, limit)}",
        str(gate.get("against", "")),
        passed,
    )


def metric_name(metric: object) -> str:
    """What a gate looks at, in words."""
    return _METRICS.get(str(metric), str(metric))


def gate_number(metric: object, value: float | None) -> str:
    """A gate's value or limit, in the unit of its metric."""
    if metric in ("speedup", "never_slower"):
        return numbers.times(value)
    if metric == "size_share":
        return numbers.percent(value)
    return numbers.DASH if value is None else f"{value:.4f}"


def exported_files(run: Run) -> Table:
    """Every exported file with all that was measured on it."""
    result = result_model(run)
    columns = (
        *text_columns("File", "Stage", "Precision"),
        *number_columns("MB"),
        *_accuracy_columns(splits(run)),
        *(Column(title, "Latency, ms") for title in ("p50", "p90", "p99", "mean", "CV")),
        *number_columns("Samples", "FPS", "Speedup"),
    )
    chosen = result.graph if result else None
    rows = [Row(_graph_cells(run, graph), graph == chosen) for graph in graphs(run)]
    return Table(columns, tuple(rows))


def _graph_cells(run: Run, graph: Graph) -> tuple[str, ...]:
    latency = graph.latency
    count = latency.get("count")
    return (
        graph.name,
        graph.stage,
        graph.precision.upper(),
        numbers.megabytes(graph.bytes),
        *_accuracy_cells(graph.on(split) for split in splits(run)),
        *(numbers.milliseconds(latency.get(key)) for key in ("p50", "p90", "p99", "mean")),
        numbers.percent(latency.get("cv")),
        numbers.DASH if count is None else f"{count:.0f}",
        numbers.rate(graph.fps),
        numbers.times(graph.speedup),
    )


def curves(run: Run) -> Table:
    """The first, best and last value of every training curve."""
    measures = ("Epochs", "First", "Lowest", "Highest", "Last")
    rows = [
        Row((name, curve, *_curve_cells(values)))
        for name, found in training_curves(run).items()
        for curve, values in found.items()
    ]
    return Table((*text_columns("Stage", "Curve"), *number_columns(*measures)), tuple(rows))


def _curve_cells(values: Sequence[float]) -> list[str]:
    finite = [value for value in values if math.isfinite(value)]
    figures = (finite[0], min(finite), max(finite), finite[-1]) if finite else ()
    return [str(len(values)), *(f"{figure:.4g}" for figure in figures or [math.nan] * 4)]


def lineage(run: Run) -> Table:
    """Every file of the run, its hash, and the files that it was made of."""
    rows = [
        Row(_lineage_cells(stage, name, file))
        for stage in stages(run)
        for name, file in (stage.get("files") or {}).items()
        if "/" not in name  # a bundle's manifest holds the hashes of its parts
    ]
    return Table(
        (*text_columns("Stage", "File", "sha256", "Made of"), *number_columns("Time")), tuple(rows)
    )


def _lineage_cells(stage: Mapping[str, Any], name: str, file: Mapping[str, Any]) -> tuple[str, ...]:
    inputs = (stage.get("inputs") or {}).values()
    made_of = [f"{item.get('from')} ({short(item.get('sha256'))})" for item in inputs]
    seconds = numbers.duration(stage.get("seconds"))
    return (
        str(stage.get("name", "")),
        str(file.get("path", name)),
        short(file.get("sha256")),
        ", ".join(made_of) or numbers.DASH,
        f"{seconds}, cached" if stage.get("cached") else seconds,
    )


def short(digest: object) -> str:
    """The first digits of a hash."""
    return str(digest)[:SHORT_HASH] if digest else numbers.DASH


def facts(values: Mapping[str, Any]) -> Table:
    """Names and values, what is unknown left out."""
    found = [(name, value) for name, value in values.items() if value not in (None, "", [], {})]
    rows = [Row((name.replace("_", " "), _fact(value))) for name, value in found]
    return Table(text_columns("Fact", "Value"), tuple(rows))


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(item) for item in value)
    return str(value)
