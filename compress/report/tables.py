"""The tables of the report, as text cells: Markdown and HTML show the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    ratio,
    result_model,
    splits,
    stages,
    training_curves,
)

SHORT_HASH = 12
_METRICS = {
    "map50": "mAP50",
    "map50_95": "mAP50-95",
    "speedup": "speedup",
    "size_share": "file size, share",
}


@dataclass(frozen=True)
class Column:
    """A column. Neighbours of one ``group`` share a heading above their titles."""

    title: str
    group: str = ""
    numeric: bool = True

    @property
    def full_title(self) -> str:
        """Group and title in one line."""
        return f"{self.group} {self.title}".strip()


@dataclass(frozen=True)
class Row:
    """Cells in the order of the columns; the row of the result stands out."""

    cells: tuple[str, ...]
    stands_out: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings above the columns, each with the number of columns that it spans."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans


def summary(run: Run) -> Table:
    """One row a model: size, mAP in PyTorch and of the exported file, speed, difference to base."""
    base, result = base_model(run), result_model(run)
    rows = [Row(_summary_cells(run, model, base), model == result) for model in models(run)]
    return Table(_summary_columns(run), tuple(rows))


def _summary_columns(run: Run) -> tuple[Column, ...]:
    exported = [f"Exported, {split}" for split in splits(run)]
    return (
        *_texts("Stage"),
        *_figures("Params", "MACs", "MB"),
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
    columns = (*_texts("Stage", "Metric"), *_figures("Value", "Limit"))
    return Table((*columns, *_texts("Against", "Result")), tuple(rows))


def _gate_cells(stage: Mapping[str, Any], gate: Mapping[str, Any]) -> tuple[str, ...]:
    metric, value, limit = (gate.get(key) for key in ("metric", "value", "limit"))
    side = "at most" if metric == "size_share" else "at least"
    passed = "passed" if gate.get("passed") else f"missed. To try: {gate.get('advice', '')}"
    return (
        str(stage.get("name", "")),
        _METRICS.get(str(metric), str(metric)),
        _gate_number(metric, value),
        f"{side} {_gate_number(metric, limit)}",
        str(gate.get("against", "")),
        passed,
    )


def _gate_number(metric: str | None, value: float | None) -> str:
    if metric == "speedup":
        return numbers.times(value)
    if metric == "size_share":
        return numbers.percent(value)
    return numbers.DASH if value is None else f"{value:.4f}"


def exported_files(run: Run) -> Table:
    """Every exported file with all that was measured on it."""
    result = result_model(run)
    columns = (
        *_texts("File", "Stage", "Precision"),
        *_figures("MB"),
        *_accuracy_columns(splits(run)),
        *(Column(title, "Latency, ms") for title in ("p50", "p90", "p99", "mean", "CV")),
        *_figures("Samples", "FPS", "Speedup"),
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
    return Table((*_texts("Stage", "Curve"), *_figures(*measures)), tuple(rows))


def _curve_cells(values: Sequence[float]) -> list[str]:
    finite = [value for value in values if math.isfinite(value)]
    figures = (finite[0], min(finite), max(finite), finite[-1]) if finite else ()
    return [str(len(values)), *(f"{figure:.4g}" for figure in figures or [math.nan] * 4)]


def channels(layers: Mapping[str, tuple[int, int]]) -> Table:
    """Channels of each layer before and after pruning."""
    rows = [
        Row((layer, str(before), str(after), numbers.percent(ratio(after, before))))
        for layer, (before, after) in layers.items()
    ]
    return Table((*_texts("Layer"), *_figures("Before", "After", "Kept")), tuple(rows))


def lineage(run: Run) -> Table:
    """Every file of the run, its hash, and the files that it was made of."""
    rows = [
        Row(_lineage_cells(stage, name, file))
        for stage in stages(run)
        for name, file in (stage.get("files") or {}).items()
    ]
    return Table((*_texts("Stage", "File", "sha256", "Made of"), *_figures("Time")), tuple(rows))


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
    return Table(_texts("Fact", "Value"), tuple(rows))


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(item) for item in value)
    return str(value)


def _texts(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title, numeric=False) for title in titles)


def _figures(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(title) for title in titles)
