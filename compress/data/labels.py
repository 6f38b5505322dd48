"""What is wrong with the rows of a YOLO label file."""

from __future__ import annotations

import math
from itertools import chain

BOX_FIELDS = 5
TOLERANCE = 0.01  # coordinates may lie this far outside 0..1, as in ultralytics
LONG_ROW_FIELDS = 7  # the least fields of a polygon, and of a box with one keypoint
VISIBILITY = 2.0  # of a keypoint: the one value above 1 that such a row may hold

Fault = tuple[int, str]


def label_faults(text: str, classes: int) -> list[Fault]:
    """Line number (from 1) and what is wrong there, for every faulty row of one label file.

    A row is ``class x y width height`` with shares of the picture, or ``class`` and a polygon, or
    a box with keypoints. ``classes`` is the number of classes.
    """
    rows = [line.split() for line in text.splitlines()]
    if _all_plain(rows, classes):
        return []
    faults = [
        (number, fault)
        for number, row in enumerate(rows, start=1)
        if row and (fault := _row_fault(row, classes))
    ]
    kinds = {len(row) == BOX_FIELDS for row in rows if row}
    return faults or ([(1, "boxes and polygons mixed in one file")] if len(kinds) > 1 else [])


def _all_plain(rows: list[list[str]], classes: int) -> bool:
    """The short way for files of sound boxes: nearly all of them."""
    if any(len(row) != BOX_FIELDS for row in rows):
        return False
    try:
        values = list(map(float, chain.from_iterable(rows)))
    except ValueError:
        return False
    kinds = values[::BOX_FIELDS]
    # NaN fails every comparison but may hide in min and max: the sum shows it
    return not values or (
        min(values) >= 0.0
        and max(kinds) < classes
        and all(map(float.is_integer, kinds))
        and math.isfinite(sum(values))
        and all(max(values[first::BOX_FIELDS]) <= 1.0 for first in range(1, BOX_FIELDS))
    )


def _row_fault(row: list[str], classes: int) -> str:
    if len(row) != BOX_FIELDS and len(row) < LONG_ROW_FIELDS:
        return f"{len(row)} fields; a box has {BOX_FIELDS}: class x y width height"
    try:
        values = [float(field) for field in row]
    except ValueError:
        return f"not a number: {next(field for field in row if not _is_number(field))!r}"
    if not all(map(math.isfinite, values)):
        return "a number is not finite"
    kind, *places = values
    if not kind.is_integer() or not 0 <= kind < classes:
        return f"class {row[0]}, but the data has classes 0..{classes - 1}"
    outside = [place for place in places if not _is_share(place, len(row) > BOX_FIELDS)]
    if outside:
        return f"coordinate {outside[0]:g} is outside 0..1; coordinates are shares of the picture"
    if len(row) == BOX_FIELDS and min(places[2:]) < 0:
        return f"width or height {min(places[2:]):g} is below zero"
    return ""


def _is_share(place: float, long_row: bool) -> bool:
    return -TOLERANCE <= place <= 1 + TOLERANCE or (long_row and place == VISIBILITY)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
