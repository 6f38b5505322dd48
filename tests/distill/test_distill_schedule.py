"""Weights, temperatures and phases over the epochs of a run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.distill.schedule import Phase, Temperature, Weight, phase_at


def over(weight: Weight, epochs: int, plain_from: int | None = None) -> list[float]:
    plain = epochs if plain_from is None else plain_from
    return [weight.at(epoch, epochs, plain) for epoch in range(epochs)]


def test_constant_is_constant() -> None:
    assert over(Weight(0.7), 5) == [0.7] * 5


def test_linear_falls_in_equal_steps_to_its_final_share() -> None:
    assert over(Weight(2.0, "linear", 0.5), 5) == pytest.approx([2.0, 1.75, 1.5, 1.25, 1.0])


def test_defect_6_cosine_runs_once_over_the_whole_run() -> None:
    values = over(Weight(1.0, "cosine"), 9)
    assert values == pytest.approx([(1 + math.cos(math.pi * i / 8)) / 2 for i in range(9)])
    assert values == sorted(values, reverse=True)


def test_start_and_stop_bound_it() -> None:
    assert over(Weight(1.0, start=1, stop=3), 5) == [0, 1, 1, 0, 0]
    assert over(Weight(1.0, "linear", start=1, stop=4), 5) == pytest.approx([0, 1, 0.5, 0, 0])


def test_it_can_stop_with_mosaic() -> None:
    assert over(Weight(1.0, with_mosaic=True), 5, plain_from=3) == [1, 1, 1, 0, 0]


@given(
    st.sampled_from(["constant", "linear", "cosine"]),
    st.floats(0.01, 10),
    st.floats(0, 2),
    st.integers(1, 40),
)
def test_a_weight_stays_between_its_ends(
    shape: str, value: float, final: float, epochs: int
) -> None:
    values = over(Weight(value, shape, final), epochs)
    assert values[0] == pytest.approx(value)
    low, high = sorted((value, value * final if shape != "constant" else value))
    assert all(low - 1e-9 <= v <= high + 1e-9 for v in values)
    if epochs > 1 and shape != "constant":
        assert values[-1] == pytest.approx(value * final, abs=1e-9)


def test_temperature_falls_in_steps_down_to_a_floor() -> None:
    falling = Temperature(5.0, drop=1.0, every=10, least=1.0)
    assert [falling.at(epoch) for epoch in (0, 9, 10, 25, 49, 90)] == [5, 5, 4, 3, 1, 1]
    assert falling.at(-3) == 5  # before the loss begins
    assert Temperature(0.5).at(90) == 0.5  # one that stays may be below the floor


def test_phases_follow_each_other() -> None:
    phases = [Phase(2, frozenset({"features"})), Phase(3, frozenset({"labels"}))]
    assert [phase_at(phases, epoch) for epoch in (0, 1, 2, 4, 9)] == [
        phases[0], phases[0], phases[1], phases[1], phases[1],
    ]  # fmt: skip
    assert phase_at([], 3) is None
