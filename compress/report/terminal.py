"""The summary on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compress.report import numbers
from compress.report.figures import Accuracy, Model, base_model, models, result_model, splits

if TYPE_CHECKING:
    from rich.table import Table

Cell = Callable[[Model], str]


def summary_table(run: dict[str, Any]) -> Table:
    """One row a model, from the content of ``run.json``; it fits 80 columns, the result is bold."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns, result = _columns(run), result_model(run)
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for title in columns:
        table.add_column(title, justify="left" if title == "stage" else "right", no_wrap=True)
    for model in models(run):
        cells = (Text(cell(model)) for cell in columns.values())
        table.add_row(*cells, style="bold" if model == result else "")
    return table


def _columns(run: dict[str, Any]) -> dict[str, Cell]:
    base = base_model(run)
    return {
        "stage": lambda model: model.name,
        "params": lambda model: numbers.amount(model.params, space=""),
        "MACs": lambda model: numbers.amount(model.macs, space=""),
        "MB": lambda model: numbers.megabytes(model.file_bytes),
        "PyTorch\nmAP50/-95": lambda model: _both(model.torch),
        **{f"file {split}\nmAP50/-95": _exported(split) for split in splits(run)},
        "points": lambda model: numbers.points(model.drop(base)),
        "p50\nms": lambda model: numbers.milliseconds(model.p50),
        "FPS": lambda model: numbers.rate(model.graph.fps if model.graph else None),
        "speed": lambda model: numbers.times(model.graph.speedup if model.graph else None),
    }


def _exported(split: str) -> Cell:
    return lambda model: _both(model.on(split))


def _both(accuracy: Accuracy) -> str:
    figures = (accuracy.map50, accuracy.map50_95)
    return "/".join(numbers.precision(figure).removeprefix("0") for figure in figures)
