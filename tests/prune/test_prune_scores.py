"""Scores of channels, against numbers worked out by hand and slow references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compress.prune.scores import group_magnitude, lamp, squared_norms

# 0, or large enough that no quotient underflows
VALUES = st.one_of(st.just(0.0), st.floats(2.0**-20, 2.0**20, width=32))
MAGNITUDES = st.lists(VALUES, min_size=1, max_size=40)


def slow_lamp(magnitudes: list[float]) -> list[float]:
    """Each channel's share of all that come after it, in ascending order."""
    order = sorted(range(len(magnitudes)), key=lambda index: magnitudes[index])
    scores = [0.0] * len(magnitudes)
    for rank, index in enumerate(order):
        rest = sum(magnitudes[other] for other in order[rank:])
        scores[index] = magnitudes[index] / rest if rest else 1.0
    return scores


@pytest.mark.parametrize(
    ("magnitudes", "scores"),
    [
        ([1.0, 4.0, 9.0], [1 / 14, 4 / 13, 1.0]),
        ([9.0, 1.0, 4.0], [1.0, 1 / 14, 4 / 13]),
        ([2.0, 2.0], [1 / 2, 1.0]),
        ([0.0, 3.0], [0.0, 1.0]),
        ([0.0, 0.0], [1.0, 1.0]),
        ([5.0], [1.0]),
    ],
)
def test_lamp_by_hand(magnitudes: list[float], scores: list[float]) -> None:
    assert lamp(torch.tensor(magnitudes)).tolist() == pytest.approx(scores, abs=1e-12)


@given(MAGNITUDES)
def test_lamp_equals_a_slow_reference(magnitudes: list[float]) -> None:
    values = torch.tensor(magnitudes)
    assert lamp(values).tolist() == pytest.approx(slow_lamp(values.tolist()), rel=1e-9)


@given(MAGNITUDES)
def test_the_best_channel_of_every_layer_scores_one(magnitudes: list[float]) -> None:
    scores = lamp(torch.tensor(magnitudes))
    assert scores.max() == 1.0
    assert scores.min() >= 0.0
    best = max(range(len(magnitudes)), key=lambda index: (magnitudes[index], index))
    assert scores[best] == 1.0


@given(MAGNITUDES, st.floats(0.01, 100.0))
def test_lamp_keeps_the_order_and_forgets_the_unit(magnitudes: list[float], unit: float) -> None:
    values = torch.tensor(magnitudes, dtype=torch.float64)
    ranked = lamp(values)[values.argsort(stable=True)]
    assert (ranked.diff() >= 0).all()
    assert torch.allclose(lamp(values * unit), lamp(values), rtol=1e-9)


def test_squared_norms_by_hand() -> None:
    weight = torch.zeros(2, 3, 1, 2)
    weight[0, 0, 0] = torch.tensor([3.0, 4.0])
    weight[1, 2, 0] = torch.tensor([1.0, 2.0])
    everything = torch.arange(3)
    assert squared_norms(weight, "out", torch.tensor([0, 1])).tolist() == [25.0, 5.0]
    assert squared_norms(weight, "in", everything).tolist() == [25.0, 0.0, 5.0]
    assert squared_norms(weight.half(), "in", torch.tensor([2])).dtype == torch.float32


@given(
    width=st.integers(1, 6),
    sides=st.lists(st.lists(st.floats(0, 100, width=32), min_size=12, max_size=12), min_size=1),
    seed=st.integers(0, 99),
)
def test_group_magnitude_is_the_mean_over_all_slices_of_a_channel(
    width: int, sides: list[list[float]], seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    whole = torch.arange(width)
    norms = [torch.tensor(side[: 2 * width]) for side in sides]
    orders = [torch.randperm(2 * width, generator=random) for _ in norms]
    channels = [torch.cat([whole, whole])[order] for order in orders]
    found = group_magnitude(norms, channels, width)
    assert found.tolist() == pytest.approx(_slow_mean(norms, channels, width), rel=1e-5, abs=1e-6)


def _slow_mean(norms: list[Tensor], channels: list[Tensor], width: int) -> list[float]:
    slices: list[list[float]] = [[] for _ in range(width)]
    for values, owners in zip(norms, channels, strict=True):
        for value, owner in zip(values.tolist(), owners.tolist(), strict=True):
            slices[owner].append(value)
    return [sum(values) / len(values) for values in slices]
