"""What the report says of INT8: sensitivity of layers, parity of tensors, simulated mAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.report import numbers
from compress.report.figures import Accuracy, Run, difference, graphs, metrics, models, stages
from compress.report.table import Column, Row, Table, number_columns, text_columns

Rows = Sequence[Mapping[str, Any]]


def sensitivities(run: Run) -> dict[str, Rows]:
    """Stage -> rows of its layers, the noisiest first, of each stage that measured it."""
    return {
        str(stage.get("name")): sorted(rows, key=lambda row: _known(row.get("sqnr")))
        for stage in stages(run)
        if (rows := (metrics(stage).get("int8_sensitivity") or {}).get("rows"))
    }


def sensitivity(rows: Rows) -> Table:
    """Noise and mAP50-95 with one layer in INT8 at a time, and the time it takes longer in float.

    A layer without a time has not been measured.
    """
    columns = (
        *text_columns("Layer in INT8"),
        *number_columns("SQNR, dB", "mAP50-95", "Points", "ms lost in float"),
    )
    return Table(columns, tuple(Row(_sensitivity_cells(row)) for row in rows))


def _sensitivity_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    lost = row.get("lost_ms")
    return (
        str(row.get("layer", "")),
        decibel(row.get("sqnr")),
        numbers.precision(row.get("map50_95")),
        numbers.points(None if row.get("drop") is None else -row["drop"]),
        numbers.DASH if lost is None else numbers.signed(lost, 3),
    )


def tensor_parities(run: Run) -> dict[str, Mapping[str, Any]]:
    """INT8 file -> how its rounded tensors compare with the simulation's."""
    return {
        name: found
        for stage in stages(run)
        for name, found in (metrics(stage).get("tensor_parity") or {}).items()
    }


def compared(run: Run) -> Table:
    """One row an INT8 file: how many tensors were compared, and how far they are apart."""
    columns = (
        *text_columns("File"),
        *number_columns("Tensors compared", "Largest difference, steps", "Lowest SQNR, dB"),
    )
    rows = [
        Row((name, _count(found.get("tensors")), _count(found.get("worst_steps")), _lowest(found)))
        for name, found in tensor_parities(run).items()
    ]
    return Table(columns, tuple(rows))


def _lowest(found: Mapping[str, Any]) -> str:
    ratios = [row["sqnr"] for row in found.get("worst") or [] if row.get("sqnr") is not None]
    return decibel(min(ratios, default=None))


def worst_tensors(run: Run) -> Table:
    """The tensors of each INT8 file that differ most from the simulation's."""
    columns = (
        *text_columns("File", "Tensor"),
        *(Column(title, "Difference, steps") for title in ("mean", "largest")),
        *number_columns("Moved", "SQNR, dB"),
    )
    rows = [
        Row(_tensor_cells(name, row))
        for name, found in tensor_parities(run).items()
        for row in found.get("worst") or []
    ]
    return Table(columns, tuple(rows))


def _tensor_cells(file: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    mean, moved = row.get("steps"), row.get("moved")
    return (
        file,
        str(row.get("tensor", "")),
        numbers.DASH if mean is None else f"{mean:.2g}",
        _count(row.get("worst")),
        numbers.DASH if moved is None else f"{100 * moved:.2g} %",
        decibel(row.get("sqnr")),
    )


def simulated(run: Run) -> Table:
    """MAP50-95 on val of each INT8 file beside that of its checkpoint under simulation."""
    simulations = {model.name: model.torch for model in models(run)}
    found = [
        (graph, simulations.get(graph.stage, Accuracy()).map50_95, graph.on("val").map50_95)
        for graph in graphs(run)
        if graph.precision == "int8"
    ]
    rows = [
        Row(
            (
                graph.name,
                graph.stage,
                numbers.precision(expected),
                numbers.precision(measured),
                numbers.points(difference(measured, expected)),
            )
        )
        for graph, expected, measured in found
        if None not in (expected, measured)
    ]
    columns = (*text_columns("File", "Stage"), *number_columns("Simulated", "File", "Gap, points"))
    return Table(columns, tuple(rows))


def decibel(value: float | None) -> str:
    """A ratio in dB."""
    return numbers.DASH if value is None else f"{value:.1f}"


def _count(value: int | None) -> str:
    return numbers.DASH if value is None else str(value)


def _known(value: float | None) -> float:
    """Unknown ratios come last."""
    return float("inf") if value is None else float(value)
