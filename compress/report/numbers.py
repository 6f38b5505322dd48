"""Numbers as people read them; a dash for what was not measured."""

from __future__ import annotations

DASH = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float | None, space: str = " ") -> str:
    """A count in thousands, millions or billions: ``3.01 M``."""
    if value is None:
        return DASH
    scale, suffix = next(((s, name) for s, name in _SCALES if value >= s), (1.0, ""))
    return f"{_three_digits(value / scale)}{space}{suffix}" if suffix else f"{value:.0f}"


def megabytes(value: float | None) -> str:
    """Bytes as megabytes (10^6)."""
    return DASH if value is None else _three_digits(value / 1e6)


def precision(value: float | None) -> str:
    """mAP, 0 to 1, to a tenth of a point."""
    return DASH if value is None else f"{value:.3f}"


def points(value: float | None) -> str:
    """A signed difference of mAP in points (0.01 is one point)."""
    return DASH if value is None else signed(value * 100, 1)


def signed(value: float, digits: int) -> str:
    """With a sign, and none on zero."""
    text = f"{abs(value):.{digits}f}"
    if not text.strip("0."):
        return text
    return f"{_MINUS if value < 0 else '+'}{text}"


def milliseconds(value: float | None) -> str:
    """Three significant digits."""
    return DASH if value is None else _three_digits(value)


def rate(value: float | None) -> str:
    """Images a second."""
    return DASH if value is None else _three_digits(value)


def times(value: float | None) -> str:
    """A factor: ``2.61x`` with the sign for times."""
    return DASH if value is None else f"{_three_digits(value)}{_TIMES}"


def percent(value: float | None) -> str:
    """A share as percent."""
    return DASH if value is None else f"{value * 100:.1f} %"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _three_digits(value: float) -> str:
    size = abs(value)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:.{digits}f}"
