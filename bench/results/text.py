"""A bench result as text: one table, what it was measured on, and what to doubt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import StringIO
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.results.schema import BenchResult, Row
from bench.statistics import PERCENTILES, samples_needed

_WIDE = 1000
_TEXT = ("file", "runtime", "float")


def render(result: BenchResult, markdown: bool = False) -> str:
    """The whole result as plain text, or as Markdown."""
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD)
    columns = _columns(result["rows"])
    for title in columns:
        justify: Literal["left", "right"] = "left" if title in _TEXT else "right"
        table.add_column(_cell(title, markdown), justify=justify, no_wrap=True)
    for row in result["rows"]:
        table.add_row(*(_cell(column(row), markdown) for column in columns.values()))
    out = StringIO()
    Console(file=out, width=_WIDE).print(table)
    lines = [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]
    return "\n".join([*lines, "", *_notes(result)])


def _cell(text: str, markdown: bool) -> Text:
    """Text as it is: brackets are no markup, and a bar does not end a Markdown cell."""
    return Text(text.replace("|", "\\|") if markdown else text)


def _columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    base = rows[0]["label"]
    runtimes: dict[str, Callable[[Row], str]] = {
        "runtime": lambda row: row["runtime"],
        "float": lambda row: row["float_type"],
    }
    several = len({(row["runtime"], row["float_type"]) for row in rows}) > 1
    return {
        "file": lambda row: row["label"],
        **(runtimes if several else {}),
        "MB": lambda row: f"{row['bytes'] / 1e6:.2f}",
        "p50 ms": lambda row: _milliseconds(row["latency_ms"]["p50"]),
        "p90 ms": lambda row: _milliseconds(row["latency_ms"]["p90"]),
        "p99 ms": lambda row: _milliseconds(row["latency_ms"]["p99"]),
        "CV": lambda row: f"{row['latency_ms']['cv']:.1%}",
        "images/s": lambda row: f"{row['fps']:.1f}",
        f"speed / {base}": lambda row: f"{row['speedup']:.2f}x",
        "95 % interval": lambda row: f"{row['speedup_ci'][0]:.2f}-{row['speedup_ci'][1]:.2f}",
    }


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _notes(result: BenchResult) -> list[str]:
    machine, settings = result["machine"], result["settings"]
    count = result["rows"][0]["latency_ms"]["count"]
    notes = [
        f"{machine['cpu']}, {settings['threads']} of {machine['logical_cores']} cores, "
        f"{', '.join(dict.fromkeys(row['runtime'] for row in result['rows']))} on "
        f"{settings['device']}; inference alone, without letterbox and NMS; {count} rounds, all "
        "files in turn.",
    ]
    missing = [percent for percent in PERCENTILES if count < samples_needed(percent)]
    notes += [f"- : p{percent} needs {samples_needed(percent)} samples." for percent in missing]
    return notes + [f"Warning: {warning}" for warning in result["warnings"]]
