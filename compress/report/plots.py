"""The plots of exported files and of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.results.drawing import INK, MUTED, SERIES, SOFT, WIDTH, beside, draw, svg
from compress.report import numbers
from compress.report.figures import Graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# groups of curves that share a panel: ultralytics' mAP, precision and recall; losses' shares of
# the gradient's norm
_TOGETHER = {"metrics": "metrics", "gradient": "share of the gradient"}
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
    with draw(WIDTH / 2, 3.1) as (figure, axes):
        for name, place in places.items():
            colour, size = (SERIES[0], 9) if name == chosen else (MUTED, 6)
            axes.plot(*place, "o", color=colour, markersize=size)
        axes.margins(0.25)
        axes.set_xlim(left=0)
        axes.set_xlabel("median latency, ms")
        axes.set_title("mAP50-95 (val) of the exported files")
        figure.draw_without_rendering()  # places the axes, so that pixels are known
        _label_points(axes, places, chosen)
        return svg(figure)


def _label_points(axes: Axes, places: Mapping[str, tuple[float, float]], chosen: str) -> None:
    """A name beside each point, inside the plot, where it covers neither point nor name."""
    bottom, top = axes.bbox.y0, axes.bbox.y1
    pixels = {name: axes.transData.transform(place) for name, place in places.items()}
    taken = [_Area(x, y, 7, 7) for x, y in pixels.values()]
    for name, (x, y) in pixels.items():
        free = [
            (dx, dy)
            for dx, dy in _OFFSETS
            if bottom < y + dy - 7
            and y + dy + 7 < top
            and not any(_Area(x + dx, y + dy, 3.2 * len(name), 7).meets(area) for area in taken)
        ]
        dx, dy = (free or _OFFSETS)[0]
        taken.append(_Area(x + dx, y + dy, 3.2 * len(name), 7))
        colour = INK if name == chosen else MUTED
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
    with draw(WIDTH / 2, 3.1) as (figure, axes):
        for place, graph in enumerate(measured):
            p50 = graph.p50 or 0.0
            tail = next((t for key in ("p99", "p90") if (t := graph.latency.get(key))), p50)
            axes.barh(place, p50, 0.55, color=SERIES[0] if graph == result else SOFT)
            axes.plot([p50, tail], [place, place], color=MUTED, linewidth=1.2)
            text = f"{numbers.milliseconds(p50)} ms"
            beside(axes, text, (tail, place))
        axes.set_yticks(range(len(measured)), [graph.name for graph in measured])
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("ms; bar: median, line: to p99")
        axes.set_title("Latency of the exported files")
        return svg(figure)


def training(curves: Mapping[str, Sequence[float]]) -> str:
    """One panel a loss over the epochs: ``train/box_loss`` and ``val/box_loss`` share one."""
    panels = _panels(curves)
    rows = -(-len(panels) // _PANELS)
    columns = max(4, -(-len(panels) // rows))
    with draw(WIDTH, 0.3 + 1.85 * rows, columns, rows) as (figure, *all_axes):
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, lines) in zip(all_axes, panels.items(), strict=False):
            _draw_panel(axes, lines)
            axes.set_title(title)
        return svg(figure)


def _draw_panel(axes: Axes, lines: Mapping[str, Sequence[float]]) -> None:
    for number, (label, values) in enumerate(lines.items()):
        marker = "o" if len(values) == 1 else ""
        colour = SERIES[number % len(SERIES)]
        axes.plot(range(1, len(values) + 1), values, marker, color=colour, label=label)
    axes.margins(x=0.02)
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True, nbins=5)
    if len(lines) > 1:
        axes.legend(loc="best", handlelength=1.2, borderaxespad=0.2)


def _panels(curves: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Sequence[float]]]:
    """Panel title -> line label -> values; curves that share a panel come last."""
    panels: dict[str, dict[str, Sequence[float]]] = {}
    for name, values in sorted(curves.items(), key=lambda c: c[0].partition("/")[0] in _TOGETHER):
        group, _, rest = name.rpartition("/")
        together = _TOGETHER.get(group)
        title, label = (rest, group) if together is None else (together, rest.removesuffix("(B)"))
        panels.setdefault(title, {})[label] = values
    return panels
