"""The plot of INT8: what rounding each layer alone does to the head's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.results.drawing import MUTED, SERIES, WIDTH, beside, draw, svg
from compress.report.int8 import Rows, decibel
from compress.report.pruning_plots import LAYER_INCHES, grid, layer_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE = "noise at the outputs, % of their energy"


def sensitivity(found: Rows) -> str:
    """Energy of each layer's noise as a share of the outputs', in the order given."""
    ratios = {str(row["layer"]): row["sqnr"] for row in found if row.get("sqnr") is not None}
    if not ratios:
        return ""
    names = list(ratios)
    columns, rows = grid(len(names))
    largest = max(map(_noise, ratios.values()))
    with draw(WIDTH, 0.9 + LAYER_INCHES * rows, columns) as (figure, *panels):
        for number, axes in enumerate(panels):
            shown = names[number * rows : (number + 1) * rows]
            _noise_bars(axes, {name: ratios[name] for name in shown})
            layer_axis(axes, shown, rows)
            axes.set_xlim(0, 1.25 * largest)
            axes.set_xlabel(_TITLE)
        return svg(figure)


def _noise_bars(axes: Axes, ratios: Mapping[str, float]) -> None:
    for place, ratio in enumerate(ratios.values()):
        axes.barh(place, _noise(ratio), 0.62, color=SERIES[0])
        text = f"{decibel(ratio)} dB"
        beside(axes, text, (_noise(ratio), place), fontsize=7, color=MUTED)


def _noise(ratio: float) -> float:
    """Percent of the energy."""
    return float(100 * 10 ** (-ratio / 10))
