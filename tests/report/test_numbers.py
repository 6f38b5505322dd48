"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.report import numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.amount(3_011_433), "3.01 M"),
        (numbers.amount(404_684_800), "405 M"),
        (numbers.amount(1_011_712_000, space=""), "1.01G"),
        (numbers.amount(512), "512"),
        (numbers.megabytes(1_180_000), "1.18"),
        (numbers.megabytes(12_045_732), "12.0"),
        (numbers.precision(0.6124), "0.612"),
        (numbers.points(-0.011), "\N{MINUS SIGN}1.1"),
        (numbers.points(0.027), "+2.7"),
        (numbers.points(-0.0001), "0.0"),
        (numbers.milliseconds(9.2345), "9.23"),
        (numbers.milliseconds(0.5678), "0.568"),
        (numbers.milliseconds(99.96), "100"),
        (numbers.times(3.4), "3.40\N{MULTIPLICATION SIGN}"),
        (numbers.percent(0.0972), "9.7 %"),
        (numbers.duration(4.26), "4.3 s"),
        (numbers.duration(3131), "52 min 11 s"),
        (numbers.duration(7260), "2 h 01 min"),
    ],
)
def test_known_values(text: str, expected: str) -> None:
    assert text == expected


FORMATS = (
    numbers.amount,
    numbers.megabytes,
    numbers.precision,
    numbers.points,
    numbers.milliseconds,
    numbers.rate,
    numbers.times,
    numbers.percent,
    numbers.duration,
)


@pytest.mark.parametrize("show", FORMATS)
def test_what_was_not_measured_is_a_dash(show: object) -> None:
    assert callable(show)
    assert show(None) == numbers.DASH


@given(st.floats(1.0, 9e5))
def test_three_digits_are_right_to_half_a_percent(value: float) -> None:
    shown = float(numbers.milliseconds(value))
    assert abs(shown - value) <= 0.005 * value
