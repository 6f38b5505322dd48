"""How plots are drawn: SVG text whose colours are CSS variables, so that it can turn dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.6  # inches of a figure over the whole page
# Colours that stand for a CSS variable until the SVG is written
INK, MUTED, LINE, SOFT = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050501", "#050502", "#050503", "#050504")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    SOFT: "--soft",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)},
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: sharp, searchable, in the font of the page
    "svg.hashsalt": "compress",  # the same figure gives the same ids
    "text.parse_math": False,
    "font.size": 9,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}


@contextmanager
def draw(width: float, height: float, columns: int = 1, rows: int = 1) -> Iterator[tuple[Any, ...]]:
    """A figure (inches) with its axes, in the report's style; no global state of pyplot."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        yield figure, *figure.subplots(rows, columns, squeeze=False).flat


def svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element that fills its container."""
    stream = io.StringIO()
    unknown = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", transparent=True, metadata=unknown)
    text = stream.getvalue()[stream.getvalue().index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", text, count=5)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg", '<svg role="img"', 1)


def beside(axes: Axes, text: str, place: tuple[float, float], **style: Any) -> None:
    """Write ``text`` to the right of ``place`` (in the axes' own units)."""
    axes.annotate(text, place, (4, 0), textcoords="offset points", va="center", **style)
