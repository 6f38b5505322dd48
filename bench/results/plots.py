"""The plots of a result's page, as SVG texts; empty where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.results.drawing import INK, MUTED, SERIES, SOFT, WIDTH, draw, svg
from bench.results.labels import label_points
from bench.results.pareto import front_of
from bench.results.schema import BenchResult, Row
from bench.statistics import PERCENTILES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from bench.results.history import Series

_BINS = 90
_WIDE_RANGE = 4  # longest over shortest, from which the axis is logarithmic
_WINDOWS = 60  # groups of rounds
_LINES = ("-", "--", ":", "-.")  # where colours are used up
# of percentiles: colour, height, width
_LESSER_MARK = (MUTED, 0.5, 1.1)
_MARKS = {50: (SERIES[0], 0.82, 1.6)}
_MOST_CURVES = 6  # in one panel of the device's trace
_UNITS = {
    "mhz": "clock, MHz",
    "c": "temperature, °C",
    "w": "power, W",
    "watts": "power, W",
    "percent": "load, %",
}


def distribution(result: BenchResult) -> str:
    """How often each latency came, one strip a file, with marks at the percentiles."""
    samples = {row["label"]: _milliseconds(result, row) for row in result["rows"]}
    low = min(values.min() for values in samples.values())
    high = max(values.max() for values in samples.values())
    logarithmic = high / low > _WIDE_RANGE
    edges = _edges(float(low), float(high), logarithmic)
    with draw(WIDTH, 0.9 + 0.45 * len(samples)) as (figure, axes):
        if logarithmic:
            axes.set_xscale("log")
            _plain_ticks(axes)
        for place, (row, values) in enumerate(zip(result["rows"], samples.values())):
            _draw_strip(axes, -place, values, edges, row)
        axes.set_yticks([-place for place in range(len(samples))], [_short(n) for n in samples])
        axes.set_ylim(-len(samples) + 0.75, 1.0)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"latency, ms{' (logarithmic)' if logarithmic else ''}")
        axes.set_title("Latency of every round; marks: p50, and p90 and p99 where they are known")
        return svg(figure)


def rounds(result: BenchResult) -> str:
    """Medians of neighbouring rounds of each file, as shares of its median: drift shows."""
    with draw(WIDTH, 3.0) as (figure, axes):
        for number, row in enumerate(result["rows"]):
            values = _milliseconds(result, row)
            centres, medians = _medians(values / np.median(values))
            axes.plot(centres, medians * 100, **_style(number), label=_short(row["label"]))
        axes.axhline(100, color=SOFT, linewidth=0.8)
        axes.set_xlabel("round")
        axes.set_ylabel("% of the median")
        axes.set_title("Latency in the course of the run: medians of neighbouring rounds")
        _legend_beside(axes)
        return svg(figure)


def trace(result: BenchResult) -> str:
    """What was seen of the device meanwhile: clocks, temperatures, power, load."""
    panels = _panels(result["device"]["trace"])
    if not panels:
        return ""
    with draw(WIDTH, 2.5, len(panels)) as (figure, *all_axes):
        for axes, (title, curves) in zip(all_axes, panels.items()):
            for number, (name, (seconds, values)) in enumerate(curves.items()):
                marker = "o" if len(values) == 1 else ""
                axes.plot(seconds, values, marker=marker, **_style(number), label=_short(name))
            only = next(iter(curves)) if len(curves) == 1 else ""
            axes.set_title(f"{title}: {_short(only)}" if only else title)
            axes.set_xlabel("seconds")
            _legend(axes)
        return svg(figure)


def accuracy_over_latency(result: BenchResult) -> str:
    """mAP50-95 against median latency of all files that have both; the front is joined."""
    split = _split(result["rows"])
    places = {
        row["label"]: (row["latency_ms"]["p50"], row["map"][split]["map50_95"])
        for row in result["rows"]
        if "map50_95" in row["map"].get(split, {})
    }
    if len(places) < 2:
        return ""
    front = front_of(places)
    with draw(WIDTH, 3.4) as (figure, axes):
        joined = [places[name] for name in front]
        axes.plot(*zip(*joined), color=SERIES[0], linewidth=1)
        for name, place in places.items():
            colour, size = (SERIES[0], 8) if name in front else (MUTED, 6)
            axes.plot(*place, "o", color=colour, markersize=size)
        axes.margins(x=0.12, y=0.28)
        axes.set_xlabel("median latency, ms")
        axes.set_title(f"mAP50-95 ({split}) over latency; joined: no file is better in both")
        label_points(axes, {_short(name): place for name, place in places.items()}, joined)
        return svg(figure)


def over_time(series: Sequence[Series]) -> str:
    """Median latency of each series, measurement by measurement, over that of its first."""
    long = [each for each in series if len(each.points) > 1]
    if not long:
        return ""
    with draw(WIDTH, 3.4) as (figure, axes):
        for number, each in enumerate(long):
            values = np.array([point.p50_ms for point in each.points])
            label = _short(f"{each.label} ({each.title})", 60)
            places = range(1, len(values) + 1)
            axes.plot(places, values / values[0] * 100, marker="o", markersize=4,
                      **_style(number), label=label)  # fmt: skip
        axes.axhline(100, color=SOFT, linewidth=0.8)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("measurement")
        axes.set_ylabel("% of the first")
        axes.set_title("Median latency over the measurements")
        _legend_beside(axes)
        return svg(figure)


def _milliseconds(result: BenchResult, row: Row) -> NDArray[np.float64]:
    return np.asarray(result["samples_ns"][row["label"]], np.float64) / 1e6


def _edges(low: float, high: float, logarithmic: bool) -> NDArray[np.float64]:
    """Borders of the bins; a little air where all samples are the same."""
    low, high = low * 0.995, high * 1.005
    space = np.geomspace if logarithmic else np.linspace
    return np.asarray(space(low, high, _BINS + 1))


def _draw_strip(
    axes: Axes, base: float, values: NDArray[np.float64], edges: NDArray[np.float64], row: Row
) -> None:
    counts, _ = np.histogram(values, edges)
    heights = base + 0.72 * counts / max(counts.max(), 1)
    axes.fill_between(edges, np.append(heights, base), base, step="post", color=SOFT, linewidth=0)
    for percent in PERCENTILES:
        at = dict(row["latency_ms"]).get(f"p{percent}")
        if isinstance(at, (int, float)):
            colour, height, width = _MARKS.get(percent, _LESSER_MARK)
            axes.plot([at, at], [base, base + height], color=colour, linewidth=width)


def _plain_ticks(axes: Axes) -> None:
    """5 instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.xaxis.set_major_locator(LogLocator(10, (1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _medians(values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    parts = np.array_split(values, min(_WINDOWS, len(values)))
    ends = np.cumsum([len(part) for part in parts])
    return ends - np.array([len(part) for part in parts]) / 2, np.array(
        [np.median(part) for part in parts]
    )


def _panels(
    looks: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Title -> name -> seconds and values; only numbers in units that are known."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for look in looks:
        if not _is_number(look.get("seconds")):
            continue
        for name, value in look.items():
            stem, _, unit = str(name).rpartition("_")
            title = _UNITS.get(unit.lower())
            if title is None or not _is_number(value):
                continue
            curves = panels.setdefault(title, {})
            if stem in curves or len(curves) < _MOST_CURVES:
                times, values = curves.setdefault(stem, ([], []))
                times.append(float(look["seconds"]))
                values.append(float(value))
    return {title: panels[title] for title in dict.fromkeys(_UNITS.values()) if title in panels}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _split(rows: Sequence[Row]) -> str:
    """That of which most files have an mAP; val before others."""
    splits = [split for row in rows for split in row["map"]]
    return max(splits, key=lambda split: (splits.count(split), split == "val"), default="val")


def _style(number: int) -> dict[str, Any]:
    return {
        "color": SERIES[number % len(SERIES)],
        "linestyle": _LINES[number // len(SERIES) % len(_LINES)],
    }


def _legend(axes: Axes) -> None:
    if len(axes.get_lines()) > 1 and len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(loc="best", handlelength=1.4, borderaxespad=0.2, labelcolor=INK)


def _legend_beside(axes: Axes) -> None:
    """Right of the plot, where it covers no line."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), labelcolor=INK)


def _short(text: str, most: int = 34) -> str:
    """One line that leaves room for the plot; matplotlib hides labels that begin with ``_``."""
    line = " ".join(text.split()) or " "
    line = f"\u200b{line}" if line.startswith("_") else line
    return line if len(line) <= most else f"{line[: most - 1]}…"
