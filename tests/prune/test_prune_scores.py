"""Scores of channels, against numbers worked out by hand and slow references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compress.prune.scores import (
    SCORES,
    Score,
    Slices,
    cut_slices,
    lamp,
    lamp_shares,
    random_score,
)

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
    assert lamp_shares(torch.tensor(magnitudes)).tolist() == pytest.approx(scores, abs=1e-12)


@given(MAGNITUDES)
def test_lamp_equals_a_slow_reference(magnitudes: list[float]) -> None:
    values = torch.tensor(magnitudes)
    assert lamp_shares(values).tolist() == pytest.approx(slow_lamp(values.tolist()), rel=1e-9)


@given(MAGNITUDES)
def test_the_best_channel_of_every_layer_scores_one(magnitudes: list[float]) -> None:
    scores = lamp_shares(torch.tensor(magnitudes))
    assert scores.max() == 1.0
    assert scores.min() >= 0.0
    best = max(range(len(magnitudes)), key=lambda index: (magnitudes[index], index))
    assert scores[best] == 1.0


@given(MAGNITUDES, st.floats(0.01, 100.0))
def test_lamp_keeps_the_order_and_forgets_the_unit(magnitudes: list[float], unit: float) -> None:
    values = torch.tensor(magnitudes, dtype=torch.float64)
    ranked = lamp_shares(values)[values.argsort(stable=True)]
    assert (ranked.diff() >= 0).all()
    assert torch.allclose(lamp_shares(values * unit), lamp_shares(values), rtol=1e-9)


def test_slices_by_hand() -> None:
    weight = torch.zeros(2, 3, 1, 2)
    weight[0, 0, 0] = torch.tensor([3.0, 4.0])
    weight[1, 2, 0] = torch.tensor([1.0, 2.0])
    filters = cut_slices(weight, "out", torch.tensor([1, 0]))
    assert filters.tolist() == [[0, 0, 0, 0, 1, 2], [3, 4, 0, 0, 0, 0]]
    readers = cut_slices(weight.half(), "in", torch.arange(3))
    assert readers.tolist() == [[3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 1, 2]]
    assert readers.dtype == torch.float32


# two channels: filters with BatchNorm, a second layer that is added to the first, and a reader
# that sees each channel twice, through a concatenation
BY_HAND = (
    Slices(
        torch.tensor([[3.0, 4.0], [0.0, -5.0]]),
        torch.tensor([0, 1]),
        "out",
        scale=torch.tensor([-0.5, 1.0]),
        gradient=torch.tensor([[1.0, -1.0], [2.0, 1.0]]),
        curvature=torch.tensor([[1.0, 2.0], [4.0, 1.0]]),
    ),
    Slices(
        torch.tensor([[1.0], [2.0]]),
        torch.tensor([1, 0]),
        "out",
        scale=torch.tensor([3.0, 0.25]),
        gradient=torch.tensor([[1.0], [0.5]]),
        curvature=torch.tensor([[2.0], [0.5]]),
    ),
    Slices(
        torch.tensor([[1.0], [2.0], [0.0], [2.0]]),
        torch.tensor([0, 1, 0, 1]),
        "in",
        gradient=torch.tensor([[2.0], [1.0], [9.0], [-1.0]]),
        curvature=torch.tensor([[2.0], [1.0], [9.0], [1.0]]),
    ),
)


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("lamp", [7.5 / 16, 1.0]),  # (25 + 4 + 1 + 0) / 4 and (25 + 1 + 4 + 4) / 4
        ("l1", [4.5 / 3.75, 3.0 / 3.75]),
        ("l2", [3.5 / 3.25, 3.0 / 3.25]),
        ("bn_scale", [0.375, 2.0]),
        ("group_norm", [30**0.5, 34**0.5]),  # divided by their mean
        ("taylor", [(3 - 4 + 1 + 2 + 0) ** 2, (-5 + 1 + 2 - 2) ** 2]),
        ("hessian", [(9 + 32 + 2 + 2 + 0) / 2, (0 + 25 + 2 + 4 + 4) / 2]),
    ],
)
def test_scores_by_hand(name: str, scores: list[float]) -> None:
    expected = torch.tensor(scores)
    if name == "group_norm":
        expected /= expected.mean()
    assert SCORES[name](BY_HAND, 2).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_every_score_is_worked_out_by_hand() -> None:
    assert set(SCORES) == {"lamp", "l1", "l2", "bn_scale", "group_norm", "taylor", "hessian"}


def test_lamp_of_a_group_is_what_it_always_was() -> None:
    """Numbers recorded from the first release."""
    values = torch.arange(24.0).reshape(4, 3, 2, 1) - 7
    first = cut_slices(values, "out", torch.arange(4))
    second = cut_slices(values.flip(0).transpose(0, 1), "in", torch.tensor([2, 3, 0, 1]))
    slices = [
        Slices(first, torch.arange(4), "out"),
        Slices(second, torch.tensor([3, 0, 1, 2]), "in"),
    ]
    assert lamp(slices, 4).tolist() == [0.08496332518337409, 0.5, 0.23714094856379425, 1.0]


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[Slices], int]:
    """Random sides of one group: filters, perhaps with norms, and what reads them."""
    width = draw(st.integers(2, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    normed = draw(st.booleans())
    sides = draw(st.lists(st.sampled_from(["out", "in"]), max_size=3))
    return [_slices(side, width, normed, random) for side in ["out", *sides]], width


def _slices(side: str, width: int, normed: bool, random: torch.Generator) -> Slices:
    repeats = 1 if side == "out" else int(torch.randint(1, 3, (1,), generator=random))
    count, size = width * repeats, int(torch.randint(1, 6, (1,), generator=random))
    return Slices(
        torch.randn(count, size, generator=random),
        torch.arange(width).repeat(repeats)[torch.randperm(count, generator=random)],
        side,
        torch.randn(count, generator=random) if normed and side == "out" else None,
        torch.randn(count, size, generator=random),
        torch.rand(count, size, generator=random),
    )


EVERY = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())


@EVERY
@given(group=groups())
def test_scores_go_with_their_channels(score: Score, group: tuple[list[Slices], int]) -> None:
    slices, width = group
    renamed = torch.randperm(width, generator=torch.Generator().manual_seed(width))
    moved = [replace(part, channels=renamed[part.channels]) for part in slices]
    assert torch.allclose(score(moved, width)[renamed], score(slices, width), rtol=1e-4, atol=1e-6)


@EVERY
@given(group=groups())
def test_scores_do_not_depend_on_the_order_of_slices(
    score: Score, group: tuple[list[Slices], int]
) -> None:
    slices, width = group
    found = score([_reversed(part) for part in reversed(slices)], width)
    assert torch.allclose(found, score(slices, width), rtol=1e-4, atol=1e-6)


def _reversed(part: Slices) -> Slices:
    tensors = {
        name: value.flip(0) for name, value in vars(part).items() if isinstance(value, Tensor)
    }
    return replace(part, **tensors)


@EVERY
@given(group=groups())
def test_a_channel_of_zeros_goes_first(score: Score, group: tuple[list[Slices], int]) -> None:
    slices, width = group
    scores = score([_without_channel(part, 1) for part in slices], width)
    assert scores[1] == 0
    assert scores.min() == 0
    assert torch.isfinite(scores).all()


@EVERY
def test_a_group_of_zeros_has_scores(score: Score) -> None:
    empty = BY_HAND
    for channel in range(2):
        empty = tuple(_without_channel(part, channel) for part in empty)
    assert torch.isfinite(score(empty, 2)).all()


def _without_channel(part: Slices, channel: int) -> Slices:
    keep = (part.channels != channel).float()
    scale = None if part.scale is None else part.scale * keep
    return replace(part, weight=part.weight * keep[:, None], scale=scale)


@pytest.mark.parametrize(
    ("name", "power"),
    [("lamp", 0), ("l1", 0), ("l2", 0), ("group_norm", 0), ("taylor", 2), ("hessian", 2)],
)
@given(group=groups(), factor=st.floats(0.1, 10))
def test_magnitudes_forget_the_unit_of_the_weights(
    name: str, power: int, group: tuple[list[Slices], int], factor: float
) -> None:
    slices, width = group
    scaled = [replace(part, weight=part.weight * factor) for part in slices]
    expected = SCORES[name](slices, width) * factor**power
    assert torch.allclose(SCORES[name](scaled, width), expected, rtol=1e-3, atol=1e-5)


def test_bn_scale_falls_back_to_filters_where_a_norm_is_missing() -> None:
    bare = [replace(part, scale=None) for part in BY_HAND]
    assert SCORES["bn_scale"](bare, 2).tolist() == SCORES["l2"](BY_HAND, 2).tolist()


@pytest.mark.parametrize("name", ["taylor", "hessian"])
def test_a_missing_gradient_is_no_zero(name: str) -> None:
    bare = [replace(part, gradient=None, curvature=None) for part in BY_HAND]
    with pytest.raises(ValueError, match="gradient"):
        SCORES[name](bare, 2)


def test_a_tiny_gradient_is_no_zero() -> None:
    tiny = [replace(part, gradient=part.gradient * 1e-25) for part in BY_HAND]
    assert SCORES["taylor"](tiny, 2).min() > 0


def test_random_scores_hang_on_seed_and_group_alone() -> None:
    other = [replace(part, weight=part.weight + 1) for part in BY_HAND]
    first = random_score(0)(BY_HAND, 2)
    assert torch.equal(random_score(0)(BY_HAND, 2), first)
    assert not torch.equal(random_score(1)(BY_HAND, 2), first)
    assert not torch.equal(random_score(0)(other, 2), first)


def test_random_scores_are_uniform() -> None:
    drawn = torch.cat([_draw(seed) for seed in range(20)])
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.05)


def _draw(seed: int) -> Tensor:
    weights: Sequence[Slices] = [Slices(torch.ones(50, 1), torch.arange(50), "out")]
    return random_score(seed)(weights, 50)


@given(
    width=st.integers(1, 6),
    sides=st.lists(st.lists(st.floats(0, 100, width=32), min_size=12, max_size=12), min_size=1),
    seed=st.integers(0, 99),
)
def test_the_magnitude_is_the_mean_over_all_slices_of_a_channel(
    width: int, sides: list[list[float]], seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    whole = torch.arange(width).repeat(2)
    slices = [
        Slices(
            torch.tensor(side[: 2 * width])[:, None],
            whole[torch.randperm(2 * width, generator=random)],
            "in",
        )
        for side in sides
    ]
    expected = lamp_shares(torch.tensor(_slow_magnitudes(slices, width)))
    assert torch.allclose(lamp(slices, width), expected, rtol=1e-4, atol=1e-6)


def _slow_magnitudes(slices: list[Slices], width: int) -> list[float]:
    squares: list[list[float]] = [[] for _ in range(width)]
    for part in slices:
        for row, owner in zip(part.weight.tolist(), part.channels.tolist(), strict=True):
            squares[owner].append(sum(value**2 for value in row))
    return [sum(values) / len(values) for values in squares]
