"""Results as one HTML page that needs nothing else: table, plots, facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.results.schema import BenchResult
from bench.results.text import columns_of, history_table, notes_of

if TYPE_CHECKING:
    from bench.results.history import History

_NO_PLOTS = "There are no plots: matplotlib is not installed (pip install 'yolo-compress[train]')."


def write_page(path: Path, text: str) -> None:
    """Write ``text``.

    Raises:
        BenchError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"'{path}' cannot be written: {error.strerror}.") from error


def result_page(result: BenchResult) -> str:
    """The page of one result."""
    columns = columns_of(result)
    return _render(
        "page.html.j2",
        result=result,
        columns=list(columns),
        cells=[[cell(row) for cell in columns.values()] for row in result["rows"]],
        notes=notes_of(result),
        tables=[
            ("Device", _facts(result["device"]["facts"])),
            ("Device before", _facts(result["device"]["before"])),
            ("Device after", _facts(result["device"]["after"])),
            ("Machine", _facts(result["machine"])),
            ("Settings", _facts(result["settings"])),
            ("Interference", _facts(result["interference"])),
        ],
        plots=_plots(result),
        remark="" if _can_plot() else _NO_PLOTS,
    )


def history_page(history: History) -> str:
    """The page of results over time."""
    head, rows = history_table(history)
    drawn = {}
    if _can_plot():
        from bench.results import plots

        drawn = _drawn({"Over time": lambda: plots.over_time(history.series)})
    return _render(
        "history.html.j2",
        columns=head,
        cells=rows,
        skipped=history.skipped,
        plots=drawn,
        remark="" if _can_plot() else _NO_PLOTS,
    )


def _can_plot() -> bool:
    return find_spec("matplotlib") is not None


def _plots(result: BenchResult) -> dict[str, Any]:
    """Title -> SVG that is safe to show as it is; only what there is something to draw for."""
    if not _can_plot():
        return {}
    from bench.results import plots

    return _drawn(
        {
            "Distribution": lambda: plots.distribution(result),
            "Rounds": lambda: plots.rounds(result),
            "mAP": lambda: plots.accuracy_over_latency(result),
            "Device": lambda: plots.trace(result),
        }
    )


def _drawn(drawers: Mapping[str, Callable[[], str]]) -> dict[str, Any]:
    from markupsafe import Markup

    texts = {title: drawer() for title, drawer in drawers.items()}
    return {title: Markup(text) for title, text in texts.items() if text}


def _facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Name and value of each fact, those within others as ``outer inner``."""
    facts: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            facts += _facts(value, f"{name} ")
        elif isinstance(value, (list, tuple)):
            facts += [(name, ", ".join(map(str, value)))] if value else []
        elif value is not None:
            facts.append((name, str(value)))
    return facts


def _render(template: str, **content: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bench.results", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(content).lstrip()
