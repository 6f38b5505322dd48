"""Percent points of parts, added up to those of the whole."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bench.portions import Portions


def test_a_part_counts_by_its_weight() -> None:
    told: list[int] = []
    portions = Portions({"loop": 3.0, "energy": 1.0}, told.append)
    portions.of("loop")(50)
    assert sum(told) == 37
    portions.of("loop")(50)
    assert sum(told) == 75
    portions.of("energy")(100)
    assert sum(told) == 100


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=6),
    st.lists(st.integers(1, 99), max_size=3),
)
def test_all_parts_make_a_hundred_and_each_step_is_positive(
    weights: list[float], cuts: list[int]
) -> None:
    told: list[int] = []
    portions = Portions({str(index): weight for index, weight in enumerate(weights)}, told.append)
    ends = sorted({0, *cuts, 100})
    for index in range(len(weights)):
        for before, after in pairwise(ends):
            portions.of(str(index))(after - before)
    assert sum(told) == 100
    assert all(step > 0 for step in told)


def test_nobody_has_to_listen() -> None:
    Portions({"loop": 1.0}, None).of("loop")(100)
