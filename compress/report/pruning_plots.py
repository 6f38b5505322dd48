"""The plots of pruning: channels of each layer, sensitivity of each layer, mAP over steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.results.drawing import MUTED, SERIES, SOFT, WIDTH, beside, draw, svg
from compress.report import numbers
from compress.report.pruning import Layers, Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMN_LAYERS = 32  # layers in one column of a plot
LAYER_INCHES = 0.19  # height of one
_STEPS_INCHES = (WIDTH / 2, 3.1)


def channels(layers: Layers) -> str:
    """Channels of each layer: the whole bar before pruning, the dark part after."""
    names = list(layers)
    columns, rows = grid(len(names))
    largest = max(before for before, _ in layers.values())
    with draw(WIDTH, 0.9 + LAYER_INCHES * rows, columns) as (figure, *panels):
        for number, axes in enumerate(panels):
            shown = names[number * rows : (number + 1) * rows]
            _channel_bars(axes, {name: layers[name] for name in shown})
            layer_axis(axes, shown, rows)
            axes.set_xlim(0, largest * 1.25)
        return svg(figure)


def sensitivity(found: Rows) -> str:
    """Points of mAP50-95 that cutting each layer costs, in the order given."""
    drops = {str(row["layer"]): 100 * row["drop"] for row in found if row.get("drop") is not None}
    if not drops:
        return ""
    names = list(drops)
    columns, rows = grid(len(names))
    low, high = min(0.0, *drops.values()), max(0.0, *drops.values())
    room = 0.25 * (high - low) or 1.0  # for the numbers beside the bars
    with draw(WIDTH, 0.9 + LAYER_INCHES * rows, columns) as (figure, *panels):
        for number, axes in enumerate(panels):
            shown = names[number * rows : (number + 1) * rows]
            _drop_bars(axes, {name: drops[name] for name in shown})
            layer_axis(axes, shown, rows)
            axes.set_xlim(low, high + room)
            axes.set_xlabel("points of mAP50-95 lost")
        return svg(figure)


def steps(found: Rows) -> str:
    """mAP50-95 after each pruning step; the steps go from left to right. Empty without two."""
    points = [
        (100 * step["macs_kept"], step["map50_95"])
        for step in found
        if None not in (step.get("macs_kept"), step.get("map50_95"))
    ]
    if len(points) < 2:
        return ""
    with draw(*_STEPS_INCHES) as (figure, axes):
        axes.plot(*zip(*points, strict=True), "o-", color=SERIES[0], markersize=5)
        axes.invert_xaxis()
        axes.margins(0.08)
        axes.set_xlabel("MACs kept, %")
        axes.set_title("mAP50-95 (val) after each step")
        return svg(figure)


def grid(layers: int) -> tuple[int, int]:
    """Columns of panels, and layers in each."""
    columns = -(-layers // _COLUMN_LAYERS)
    return columns, -(-layers // columns)


def _channel_bars(axes: Axes, layers: Layers) -> None:
    places = range(len(layers))
    axes.barh(places, [before for before, _ in layers.values()], 0.62, color=SOFT)
    axes.barh(places, [after for _, after in layers.values()], 0.62, color=SERIES[0])
    for place, (before, after) in zip(places, layers.values(), strict=True):
        text = f"{before} → {after}" if after != before else str(before)
        beside(axes, text, (before, place), fontsize=7, color=MUTED)


def _drop_bars(axes: Axes, drops: Mapping[str, float]) -> None:
    for place, drop in enumerate(drops.values()):
        axes.barh(place, drop, 0.62, color=SERIES[0] if drop > 0 else SOFT)
        text = numbers.signed(-drop, 1)
        beside(axes, text, (max(drop, 0.0), place), fontsize=7, color=MUTED)


def layer_axis(axes: Axes, layers: list[str], rows: int) -> None:
    """Name ``layers`` at the left of a panel that has room for ``rows``."""
    axes.set_yticks(range(len(layers)), layers, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
