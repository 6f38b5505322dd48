"""The plots of the report: SVG text whose colours are CSS variables, so that it can turn dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.report import numbers
from compress.report.figures import Graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for a CSS variable until the SVG is written
_INK, _MUTED, _LINE, _SOFT = "#010101", "#020202", "#030303", "#040404"
_SERIES = ("#050501", "#050502", "#050503", "#050504")
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _LINE: "--line",
    _SOFT: "--soft",
    **{colour: f"--series-{number}" for number, colour in enumerate(_SERIES, start=1)},
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: sharp, searchable, in the font of the page
    "svg.hashsalt": "compress",  # the same figure gives the same ids
    "text.parse_math": False,
    "font.size": 9,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}
_METRICS = "metrics"  # the group of ultralytics' mAP, precision and recall
_WIDTH = 9.6  # inches of a figure over the whole page
_COLUMN_LAYERS = 32  # layers in one column of the channel plot
_PANELS = 5  # loss panels in a row, at most
# Where a point's name may stand, in pixels from the point; the first free place is taken
_OFFSETS = [(0, dy) for dy in (16, -16, 30, -30, 44, -44)]


def accuracy_over_latency(graphs: Sequence[Graph], result: Graph | None) -> str:
    """mAP50-95 (val) against median latency: up and left is better. Empty without two files."""
    places = {
        graph.name: (p50, score)
        for graph in graphs
        if (p50 := graph.p50) is not None and (score := graph.on("val").map50_95) is not None
    }
    if len(places) < 2:
        return ""
    chosen = result.name if result else ""
    with _figure(_WIDTH / 2, 3.1) as (figure, axes):
        for name, place in places.items():
            colour, size = (_SERIES[0], 9) if name == chosen else (_MUTED, 6)
            axes.plot(*place, "o", color=colour, markersize=size)
        axes.margins(0.25)
        axes.set_xlim(left=0)
        axes.set_xlabel("median latency, ms")
        axes.set_title("mAP50-95 (val) of the exported files")
        _label_points(axes, places, chosen)
        return _svg(figure)


def _label_points(axes: Axes, places: Mapping[str, tuple[float, float]], chosen: str) -> None:
    """A name beside each point, where it covers neither a point nor another name."""
    pixels = {name: axes.transData.transform(place) for name, place in places.items()}
    taken = [_Area(x, y, 7, 7) for x, y in pixels.values()]
    for name, (x, y) in pixels.items():
        free = [
            (dx, dy)
            for dx, dy in _OFFSETS
            if not any(_Area(x + dx, y + dy, 3.2 * len(name), 7).meets(area) for area in taken)
        ]
        dx, dy = (free or _OFFSETS)[0]
        taken.append(_Area(x + dx, y + dy, 3.2 * len(name), 7))
        colour = _INK if name == chosen else _MUTED
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        axes.annotate(name, places[name], (dx, dy), textcoords="offset pixels", **style)


@dataclass(frozen=True)
class _Area:
    """A rectangle in pixels: centre, half width, half height."""

    x: float
    y: float
    width: float
    height: float

    def meets(self, other: _Area) -> bool:
        return (
            abs(self.x - other.x) < self.width + other.width
            and abs(self.y - other.y) < self.height + other.height
        )


def latency(graphs: Sequence[Graph], result: Graph | None) -> str:
    """Median latency of each file, with a whisker to p99. Empty if nothing was measured."""
    measured = [graph for graph in graphs if graph.p50 is not None]
    if not measured:
        return ""
    with _figure(_WIDTH / 2, 3.1) as (figure, axes):
        for place, graph in enumerate(measured):
            p50 = graph.p50 or 0.0
            tail = next((t for key in ("p99", "p90") if (t := graph.latency.get(key))), p50)
            axes.barh(place, p50, 0.55, color=_SERIES[0] if graph == result else _SOFT)
            axes.plot([p50, tail], [place, place], color=_MUTED, linewidth=1.2)
            text = f"{numbers.milliseconds(p50)} ms"
            _beside(axes, text, (tail, place))
        axes.set_yticks(range(len(measured)), [graph.name for graph in measured])
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("ms; bar: median, line: to p99")
        axes.set_title("Latency of the exported files")
        return _svg(figure)


def channels(layers: Mapping[str, tuple[int, int]]) -> str:
    """Channels of each layer: the whole bar before pruning, the dark part after."""
    names = list(layers)
    columns = -(-len(names) // _COLUMN_LAYERS)
    rows = -(-len(names) // columns)
    largest = max(before for before, _ in layers.values())
    with _figure(_WIDTH, 0.9 + 0.19 * rows, columns) as (figure, *panels):
        for number, axes in enumerate(panels):
            shown = names[number * rows : (number + 1) * rows]
            _channel_bars(axes, {name: layers[name] for name in shown}, rows, largest)
        return _svg(figure)


def _channel_bars(
    axes: Axes, layers: Mapping[str, tuple[int, int]], rows: int, largest: int
) -> None:
    places = range(len(layers))
    axes.barh(places, [before for before, _ in layers.values()], 0.62, color=_SOFT)
    axes.barh(places, [after for _, after in layers.values()], 0.62, color=_SERIES[0])
    for place, (before, after) in zip(places, layers.values(), strict=True):
        text = f"{before} → {after}" if after != before else str(before)
        _beside(axes, text, (before, place), fontsize=7, color=_MUTED)
    axes.set_yticks(places, list(layers), fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xlim(0, largest * 1.25)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def _beside(axes: Axes, text: str, place: tuple[float, float], **style: Any) -> None:
    axes.annotate(text, place, (4, 0), textcoords="offset points", va="center", **style)


def training(curves: Mapping[str, Sequence[float]]) -> str:
    """One panel a loss over the epochs: ``train/box_loss`` and ``val/box_loss`` share one."""
    panels = _panels(curves)
    rows = -(-len(panels) // _PANELS)
    columns = max(4, -(-len(panels) // rows))
    with _figure(_WIDTH, 0.3 + 1.85 * rows, columns, rows) as (figure, *all_axes):
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, lines) in zip(all_axes, panels.items(), strict=False):
            _draw_panel(axes, lines)
            axes.set_title(title)
        return _svg(figure)


def _draw_panel(axes: Axes, lines: Mapping[str, Sequence[float]]) -> None:
    for number, (label, values) in enumerate(lines.items()):
        marker = "o" if len(values) == 1 else ""
        colour = _SERIES[number % len(_SERIES)]
        axes.plot(range(1, len(values) + 1), values, marker, color=colour, label=label)
    axes.margins(x=0.02)
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True, nbins=5)
    if len(lines) > 1:
        axes.legend(loc="best", handlelength=1.2, borderaxespad=0.2)


def _panels(curves: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """Panel title -> line label -> values; the metrics come last, in one panel."""
    panels: dict[str, dict[str, Sequence[float]]] = {}
    for name, values in sorted(curves.items(), key=lambda curve: curve[0].startswith(_METRICS)):
        group, _, rest = name.rpartition("/")
        title, label = (group, rest.removesuffix("(B)")) if group == _METRICS else (rest, group)
        panels.setdefault(title, {})[label] = values
    return panels


@contextmanager
def _figure(
    width: float, height: float, columns: int = 1, rows: int = 1
) -> Iterator[tuple[Any, ...]]:
    """A figure (inches) with its axes, in the report's style; no global state of pyplot."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        yield figure, *figure.subplots(rows, columns, squeeze=False).flat


def _svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element that fills its container."""
    stream = io.StringIO()
    unknown = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=unknown)
    svg = stream.getvalue()[stream.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg", '<svg role="img"', 1)
