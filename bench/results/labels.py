"""Names beside the points of a plot, where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.results.drawing import INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_NEAR, _FAR, _STEP = 11, 95, 7  # pixels from a point; beyond the second ring a line leads there
_LEADING = 20
_POINT = 6  # half the size of a point's surroundings that stay free
_AIR = 2


def label_points(
    axes: Axes,
    places: Mapping[str, tuple[float, float]],
    line: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """Write each name at the first place near its point that is free and inside the axes.

    Args:
        axes: with their final limits.
        places: name -> point, in the axes' own units.
        line: corners of a line that names do not cover either.

    Returns:
        The names for which there was no room.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # layout settles where things lie
    inside = axes.get_window_extent()
    points = {name: axes.transData.transform(place) for name, place in places.items()}
    taken: list[Any] = [_around(x, y, _POINT, _POINT) for x, y in points.values()]
    taken += _along(axes, line)
    left_out = []
    for name, (x, y) in points.items():
        text = axes.annotate(
            name, places[name], (0, 0), textcoords="offset pixels", ha="center", va="center",
            color=INK,
        )  # fmt: skip
        size = text.get_window_extent()
        width, height = size.width / 2 + _AIR, size.height / 2 + _AIR
        spot = _free_spot(x, y, width, height, inside, taken)
        if spot is None:
            text.remove()
            left_out.append(name)
            continue
        dx, dy = spot
        text.set_position((dx, dy))
        taken.append(_around(x + dx, y + dy, width, height))
        if math.hypot(max(abs(dx) - width, 0), abs(dy)) > _LEADING:
            _lead(axes, places[name], (dx, dy - math.copysign(height, dy)))
    return left_out


def _free_spot(
    x: float, y: float, width: float, height: float, inside: Bbox, taken: list[Any]
) -> tuple[float, float] | None:
    for dx, dy in _spots(width, height):
        area = _around(x + dx, y + dy, width, height)
        within = (
            area.x0 >= inside.x0
            and area.x1 <= inside.x1
            and area.y0 >= inside.y0
            and area.y1 <= inside.y1
        )
        if within and not any(area.overlaps(other) for other in taken):
            return dx, dy
    return None


def _spots(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Centres of a text around a point, the nearest first."""
    for distance in range(_NEAR, _FAR, _STEP):
        for x, y in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            yield x * (distance + width - _POINT), y * (distance + height - _POINT)


def _along(axes: Axes, line: Sequence[tuple[float, float]]) -> list[Bbox]:
    """Small areas all along a line."""
    corners = [axes.transData.transform(corner) for corner in line]
    areas = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:]):
        steps = int(math.hypot(x1 - x0, y1 - y0) // _POINT) + 1
        for step in range(steps):
            share = step / steps
            areas.append(_around(x0 + share * (x1 - x0), y0 + share * (y1 - y0), _AIR, _AIR))
    return areas


def _lead(axes: Axes, point: tuple[float, float], end: tuple[float, float]) -> None:
    """A thin line from ``point`` to ``end``, pixels away from it."""
    axes.annotate(
        "", point, end, textcoords="offset pixels",
        arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.8, "shrinkB": 4},
    )  # fmt: skip


def _around(x: float, y: float, width: float, height: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x - width, y - height, x + width, y + height)
