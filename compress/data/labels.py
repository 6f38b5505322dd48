"""What is wrong with the rows of a YOLO label file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain

BOX_FIELDS = 5
TOLERANCE = 0.01  # coordinates may lie this far outside 0..1, as in ultralytics
LONG_ROW_FIELDS = 7  # the least fields of a polygon, and of a box with one keypoint
VISIBILITY = 2.0  # of a keypoint: the one value above 1 that such a row may hold

CORNERS_FIELDS = 9  # class and four corners

Fault = tuple[int, str]


@dataclass(frozen=True)
class RowForm:
    """What a row may be.

    ``classes`` is how many there are. For the tasks ``segment``, ``pose`` and ``obb`` a row must
    be a polygon, a box with keypoints of this shape, or four corners; for others any of these.
    """

    classes: int
    task: str = ""
    keypoints: tuple[int, int] | None = None


def label_faults(text: str, form: RowForm) -> list[Fault]:
    """Line number (from 1) and what is wrong there, for every faulty row of one label file.

    A row is ``class x y width height`` with shares of the picture, or ``class`` and a polygon, or
    a box with keypoints.
    """
    rows = [line.split() for line in text.splitlines()]
    if form.task not in _LENGTH_FAULTS and _all_plain(rows, form.classes):
        return []
    faults = [
        (number, fault)
        for number, row in enumerate(rows, start=1)
        if row and (fault := _row_fault(row, form))
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


def _row_fault(row: list[str], form: RowForm) -> str:
    fault = _LENGTH_FAULTS.get(form.task, _any_length_fault)(len(row), form)
    if fault:
        return fault
    try:
        values = [float(field) for field in row]
    except ValueError:
        return f"not a number: {next(field for field in row if not _is_number(field))!r}"
    if not all(map(math.isfinite, values)):
        return "a number is not finite"
    kind, *places = values
    if not kind.is_integer() or not 0 <= kind < form.classes:
        return f"class {row[0]}, but the data has classes 0..{form.classes - 1}"
    may_be_seen = len(row) > BOX_FIELDS and form.task not in ("segment", "obb")
    outside = [place for place in places if not _is_share(place, may_be_seen)]
    if outside:
        return f"coordinate {outside[0]:g} is outside 0..1; coordinates are shares of the picture"
    if len(row) == BOX_FIELDS and min(places[2:]) < 0:
        return f"width or height {min(places[2:]):g} is below zero"
    return ""


def _any_length_fault(fields: int, form: RowForm) -> str:
    if fields == BOX_FIELDS or fields >= LONG_ROW_FIELDS:
        return ""
    return f"{fields} fields; a box has {BOX_FIELDS}: class x y width height"


def _polygon_fault(fields: int, form: RowForm) -> str:
    if fields >= LONG_ROW_FIELDS and fields % 2:
        return ""
    return f"{fields} fields; a polygon has its class, then x y of three corners or more"


def _keypoints_fault(fields: int, form: RowForm) -> str:
    count, values = form.keypoints or (0, 0)
    if fields == BOX_FIELDS + count * values:
        return ""
    return (
        f"{fields} fields; class x y width height and {count} keypoints of {values} values, as "
        f"kpt_shape says, make {BOX_FIELDS + count * values}"
    )


def _corners_fault(fields: int, form: RowForm) -> str:
    if fields == CORNERS_FIELDS:
        return ""
    return f"{fields} fields; an oriented box has {CORNERS_FIELDS}: class, then x y of four corners"


_LENGTH_FAULTS = {"segment": _polygon_fault, "pose": _keypoints_fault, "obb": _corners_fault}


def _is_share(place: float, may_be_seen: bool) -> bool:
    return -TOLERANCE <= place <= 1 + TOLERANCE or (may_be_seen and place == VISIBILITY)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
