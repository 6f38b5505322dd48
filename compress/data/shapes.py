"""Shapes of the drawn data set as signed distance fields.

A shape takes coordinates ``u``, ``v`` (same shape, the figure fills about the unit circle) and
gives the distance to its outline in the same unit: below zero inside, above zero outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Shape = Callable[[Field, Field], Field]


def _disc(u: Field, v: Field) -> Field:
    return np.hypot(u, v) - 0.95


def _rectangle(u: Field, v: Field, half_width: float, half_height: float) -> Field:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _square(u: Field, v: Field) -> Field:
    return _rectangle(u, v, 0.8, 0.8)


def _bar(u: Field, v: Field) -> Field:
    return _rectangle(u, v, 1.0, 0.22)


def _polar(u: Field, v: Field, corners: int, waist: float) -> Field:
    """A figure with ``corners`` tips on the unit circle and notches at radius ``waist``."""
    half = math.pi / corners
    turn = np.abs((np.arctan2(v, u) + half) % (2 * half) - half)
    # the outline from tip (1, 0) to notch is a straight line: its radius at angle `turn`
    edge = waist * math.sin(half) / (waist * np.sin(half - turn) + np.sin(turn))
    return (np.hypot(u, v) - edge) * math.cos(half)


def _triangle(u: Field, v: Field) -> Field:
    return _polar(u, v, 3, 0.5)


def _ring(u: Field, v: Field) -> Field:
    return np.abs(np.hypot(u, v) - 0.75) - 0.2


def _arc(u: Field, v: Field) -> Field:
    return np.maximum(_ring(u, v), u - 0.25)


def _button(u: Field, v: Field) -> Field:
    holes = np.hypot(np.abs(u) - 0.36, np.abs(v) - 0.36) - 0.2
    return np.maximum(_disc(u, v), -holes)


def _star(u: Field, v: Field) -> Field:
    return _polar(u, v, 5, 0.4)


def _cross(u: Field, v: Field) -> Field:
    return np.minimum(_rectangle(u, v, 0.95, 0.27), _rectangle(u, v, 0.27, 0.95))


def _tee(u: Field, v: Field) -> Field:
    return np.maximum(_cross(u, v), u - 0.27)


def _crate(u: Field, v: Field) -> Field:
    slots = np.abs(np.abs(u) - 0.3) - 0.13
    return np.maximum(_square(u, v), -slots)


# Every object has a look-alike among the distractors: outline or colour alone cannot tell it.
OBJECTS: dict[str, Shape] = {
    "ring": _ring,
    "button": _button,
    "star": _star,
    "cross": _cross,
    "crate": _crate,
}
DISTRACTORS: tuple[Shape, ...] = (_arc, _disc, _triangle, _tee, _square, _bar)
