"""Results as text: tables, what was measured on, and what to doubt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from bench.results.schema import BenchResult, EndToEnd, Row
from bench.runtimes.base import PARTS
from bench.statistics import PERCENTILES, samples_needed

if TYPE_CHECKING:
    from rich.text import Text

    from bench.results.compare import Change, Comparison
    from bench.results.history import History, Point

_WIDE = 1000
_LEFT = ("file", "runtime", "float", "verdict", "machine", "measured", "result")
_DASH = "-"


def render(result: BenchResult, markdown: bool = False) -> str:
    """The whole result as plain text, or as Markdown."""
    columns = columns_of(result)
    rows = [[column(row) for column in columns.values()] for row in result["rows"]]
    return "\n".join([_table(list(columns), rows, markdown), "", *notes_of(result)])


def render_comparison(found: Comparison) -> str:
    """Both medians of each file, and what became of it."""
    title = "time / first file" if found.relative else "time"
    head = ["file", "before ms", "after ms", title, "95 % interval", "verdict"]
    lines = [_table(head, [_change_cells(change) for change in found.changes]), ""]
    lines.append(
        f"{title}: after over before. Slower or faster: the whole interval lies more than "
        f"{found.tolerance:.1%} off."
    )
    lines += [f"Differs: {difference}" for difference in found.differences]
    return "\n".join([*lines, *(f"Note: {note}" for note in found.notes)])


def render_history(found: History) -> str:
    """One line a measurement, series by series. Verdicts are on the change to the last one."""
    lines = [_table(*history_table(found)), ""]
    return "\n".join([*lines, *(f"Skipped: {reason}" for reason in found.skipped)])


def history_table(found: History) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of ``render_history``."""
    head = ["file", "machine", "measured", "p50 ms", "to the first", "to the last", "verdict"]
    rows = [
        [series.label, series.title, *_point_cells(point), point.source]
        for series in found.series
        for point in series.points
    ]
    return [*head, "result"], rows


def columns_of(result: BenchResult) -> dict[str, Callable[[Row], str]]:
    """Title -> cell of a row. What no row has gets no column."""
    rows = result["rows"]
    several = len({(row["runtime"], row["float_type"]) for row in rows}) > 1
    runtimes: dict[str, Callable[[Row], str]] = {
        "runtime": lambda row: row["runtime"],
        "float": lambda row: row["float_type"],
    }
    return {
        "file": lambda row: row["label"],
        **(runtimes if several else {}),
        "MB": lambda row: f"{row['bytes'] / 1e6:.2f}",
        "p50 ms": lambda row: _milliseconds(row["latency_ms"]["p50"]),
        "p90 ms": lambda row: _milliseconds(row["latency_ms"]["p90"]),
        "p99 ms": lambda row: _milliseconds(row["latency_ms"]["p99"]),
        "CV": lambda row: f"{row['latency_ms']['cv']:.1%}",
        "images/s": lambda row: f"{row['fps']:.1f}",
        f"speed / {rows[0]['label']}": lambda row: f"{row['speedup']:.2f}x",
        "95 % interval": lambda row: _interval(*row["speedup_ci"]),
        **_further_columns(rows),
    }


def notes_of(result: BenchResult) -> list[str]:
    """What stands below the table: one sentence a line."""
    rows = result["rows"]
    count = rows[0]["latency_ms"]["count"]
    stopped = [] if result["complete"] else ["Incomplete: it was stopped before its time."]
    missing = [percent for percent in PERCENTILES if count < samples_needed(percent)]
    remarks = dict.fromkeys(f"{row['label']}: {note}" for row in rows for note in row["notes"])
    return [
        *stopped,
        f"{_place(result)}; inference alone (what the file computes); {count} rounds, all files "
        "in turn.",
        *_scopes(rows),
        *(f"- : p{percent} needs {samples_needed(percent)} samples." for percent in missing),
        *(f"Note: {remark}" for remark in remarks),
        *(f"Warning: {warning}" for warning in result["warnings"]),
    ]


def _further_columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """What only some runs measure."""
    columns: dict[str, Callable[[Row], str]] = {}
    if any(row["parts_ms"] for row in rows):
        columns["in + compute + out ms"] = _parts
    if any(row["end_to_end"] for row in rows):
        columns["image to boxes ms"] = _end_to_end
    if any(row["throughput"] for row in rows):
        columns["most images/s"] = _throughput
    if any(row["energy"] for row in rows):
        columns["J/image"] = _energy
    for split in dict.fromkeys(split for row in rows for split in row["map"]):
        columns[f"mAP50-95 {split}"] = lambda row, split=split: _map(row, split)  # type: ignore[misc]
    return columns


def _parts(row: Row) -> str:
    parts = row["parts_ms"]
    if not parts:
        return _DASH
    return " + ".join(f"{parts[part]['p50']:.2f}" if part in parts else _DASH for part in PARTS)


def _end_to_end(row: Row) -> str:
    return _milliseconds(row["end_to_end"]["latency_ms"]["p50"]) if row["end_to_end"] else _DASH


def _throughput(row: Row) -> str:
    return f"{row['throughput']['images_per_second']:.1f}" if row["throughput"] else _DASH


def _steps(whole: EndToEnd) -> str:
    steps = " + ".join(f"{name} {time:.2f}" for name, time in whole["steps_ms"].items())
    return f"{steps} ms, {whole['boxes']:.1f} boxes an image"


def _energy(row: Row) -> str:
    return f"{row['energy']['joules_per_image']:.4g}" if row["energy"] else _DASH


def _map(row: Row, split: str) -> str:
    score = row["map"].get(split, {}).get("map50_95")
    return _DASH if score is None else f"{score:.4f}"


def _place(result: BenchResult) -> str:
    """Machine, threads, runtimes and device in one line."""
    machine, settings, rows = result["machine"], result["settings"], result["rows"]
    host = f"{result['host']}: " if result["host"] else ""
    chips = dict.fromkeys(row["device"] for row in rows if row["device"] != "CPU")
    cpu, cores = machine.get("cpu") or "unknown", machine.get("logical_cores") or "unknown"
    return (
        f"{host}{cpu}, {settings.get('threads', 'unknown')} of {cores} cores, "
        f"{', '.join(dict.fromkeys(row['runtime'] for row in rows))} on "
        f"{', '.join(chips) or result['device']['name']}"
    )


def _scopes(rows: Sequence[Row]) -> list[str]:
    """What the further columns are of."""
    whole = next((row["end_to_end"] for row in rows if row["end_to_end"]), None)
    streams = next((row["throughput"] for row in rows if row["throughput"]), None)
    meters = dict.fromkeys(row["energy"]["scope"] for row in rows if row["energy"])
    lines = []
    if whole:
        lines.append(f"Image to boxes: {whole['images']} images, all files in turn. Medians:")
        lines += [
            f"  {row['label']}: {_steps(row['end_to_end'])}." for row in rows if row["end_to_end"]
        ]
    if streams:
        lines.append(f"Most images/s: {streams['streams']} copies of a net side by side.")
    return lines + [f"J/image: {scope}, idle power included." for scope in meters]


def _change_cells(change: Change) -> list[str]:
    ratio, low, high = change.ratio, change.low, change.high
    return [
        change.label,
        _milliseconds(change.before_ms),
        _milliseconds(change.after_ms),
        _DASH if ratio is None else f"{ratio:.3f}x",
        _DASH if low is None or high is None else _interval(low, high, 3),
        change.verdict,
    ]


def _point_cells(point: Point) -> list[str]:
    return [
        point.created[:16].replace("T", " "),
        _milliseconds(point.p50_ms),
        _change_of(point.to_first),
        _change_of(point.ratio),
        point.verdict,
    ]


def _change_of(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio - 1:+.1%}"


def _milliseconds(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3f}"


def _interval(low: float, high: float, digits: int = 2) -> str:
    return f"{low:.{digits}f}-{high:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD)
    for title in head:
        left = title in _LEFT
        table.add_column(_cell(title, markdown), justify="left" if left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(text, markdown) for text in row))
    out = StringIO()
    Console(file=out, width=_WIDE).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())


def _cell(text: str, markdown: bool) -> Text:
    """Text as it is: brackets are no markup, and a bar does not end a Markdown cell."""
    from rich.text import Text

    line = " ".join(text.split())
    return Text(line.replace("|", "\\|") if markdown else line)
