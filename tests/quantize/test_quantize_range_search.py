"""Ranges from histograms: every method on every shape of distribution, against real rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compress.quantize.range_search import (
    Histogram,
    divergence,
    entropy_range,
    find_range,
    mse_range,
    percentile_range,
    squared_error,
)

METHODS = ["minmax", "percentile", "mse", "entropy"]
COUNT = 20_000


def _values() -> dict[str, Tensor]:
    torch.manual_seed(0)
    normal = torch.randn(COUNT)
    return {
        "normal": normal,
        "relu": normal.relu(),
        "silu": torch.nn.functional.silu(3 * normal),
        "long tail": normal.sign() * (normal.abs().exp() - 1),
        "one outlier": torch.cat([normal, torch.tensor([300.0])]),
        "lopsided": torch.cat([normal * 0.2, normal.abs() * 5]),
        "negative": -normal.abs(),
        "far from zero": normal * 0.1 + 50,
        "constant": torch.full((COUNT,), 3.7),
        "negative constant": torch.full((COUNT,), -0.02),
        "two points": torch.tensor([-1.0, 3.0]).repeat(COUNT // 2),
        "zeros and one": torch.cat([torch.zeros(COUNT), torch.tensor([2.0])]),
        "few": normal[:20],
    }


VALUES = _values()


def histogram_of(values: Tensor, bins: int = 2048) -> Histogram:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    return Histogram(torch.histc(values, bins, low, high).double(), low, high)


def real_error(values: Tensor, low: float, high: float, symmetric: bool) -> float:
    """Mean squared error of torch's own rounding to INT8."""
    if symmetric:
        scale, zero, least, most = high / 127, 0, -128, 127
    else:
        scale, least, most = (high - low) / 255, 0, 255
        zero = round(-low / scale)
    rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero, least, most)
    return float((rounded - values).double().square().mean())


def error_of(histogram: Histogram, low: float, high: float, symmetric: bool = False) -> float:
    ends = [torch.tensor([end], dtype=torch.float64) for end in (low, high)]
    return float(squared_error(histogram, *ends, symmetric))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", VALUES)
def test_a_range_contains_zero_has_a_width_and_stays_within_the_extremes(
    kind: str, method: str, symmetric: bool
) -> None:
    histogram = histogram_of(VALUES[kind])
    low, high = find_range(histogram, method, 99.9, symmetric)
    assert low <= 0.0 <= high
    assert low < high
    if symmetric:
        assert low == -high
        assert high <= max(-histogram.low, histogram.high) + 1e-9
    else:
        assert low >= histogram.low - 1e-9
        assert high <= histogram.high + 1e-9


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", VALUES)
def test_mse_is_at_least_as_good_as_the_other_methods(kind: str, symmetric: bool) -> None:
    histogram = histogram_of(VALUES[kind])
    own = error_of(histogram, *find_range(histogram, "mse", 0, symmetric), symmetric)
    for method in ("minmax", "percentile", "entropy"):
        for percentile in (99.0, 99.99) if method == "percentile" else (100.0,):
            other = find_range(histogram, method, percentile, symmetric)
            # values that lie close together may by chance sit on a step: no range is best for all
            slack = 1.05 if kind == "far from zero" else 1.002
            assert own <= error_of(histogram, *other, symmetric) * slack


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["normal", "silu", "long tail", "lopsided", "negative"])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.3])
def test_the_error_of_a_histogram_is_that_of_real_rounding(
    kind: str, symmetric: bool, share: float
) -> None:
    values = VALUES[kind]
    histogram = histogram_of(values)
    low, high = histogram.low * share, histogram.high * share
    if symmetric:
        high = max(-low, high)
        low = -high
    expected = real_error(values, low, high, symmetric)
    assert error_of(histogram, low, high, symmetric) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("factor", [1e-6, 0.01, 1e4])
def test_scaling_the_data_scales_the_range(kind: str, method: str, factor: float) -> None:
    one = histogram_of(VALUES[kind])
    other = Histogram(one.counts, one.low * factor, one.high * factor)
    expected = [end * factor for end in find_range(one, method, 99.9)]
    assert find_range(other, method, 99.9) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["normal", "silu", "long tail", "lopsided", "one outlier"])
def test_mirroring_the_data_mirrors_the_range_of_least_error(kind: str) -> None:
    one = histogram_of(VALUES[kind])
    other = Histogram(one.counts.flip(0), -one.high, -one.low)
    low, high = mse_range(other)
    mirrored = error_of(one, -high, -low)
    assert mirrored == pytest.approx(error_of(one, *mse_range(one)), rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_values_that_are_all_zero_give_an_empty_range(method: str) -> None:
    assert find_range(Histogram(torch.zeros(64).double(), 0.0, 0.0), method, 99.0) == (0.0, 0.0)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_a_long_tail_is_clipped_and_an_even_spread_is_not(method: str) -> None:
    tail = histogram_of(VALUES["long tail"])
    low, high = find_range(tail, method, 0)
    assert high - low < 0.95 * (tail.high - tail.low)
    even = Histogram(torch.ones(2048).double(), -1.0, 1.0)
    assert find_range(even, method, 0) == pytest.approx((-1.0, 1.0), abs=0.02)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_ends_are_searched_one_by_one(method: str) -> None:
    """One large value: the end on the other side stays where it was."""
    torch.manual_seed(0)
    values = torch.cat([torch.rand(200_000) * 2 - 1, torch.tensor([2.0])])
    low, high = find_range(histogram_of(values), method, 0)
    assert low == pytest.approx(-1.0, abs=0.05)
    assert 1.0 <= high < 1.8


def test_the_zeros_of_a_relu_do_not_move_the_range_of_least_divergence() -> None:
    positive = VALUES["normal"].abs()
    alone, with_zeros = (
        entropy_range(histogram_of(torch.cat([positive, torch.zeros(count)])))
        for count in (0, 50 * COUNT)
    )
    assert with_zeros == pytest.approx(alone, rel=0.02)


def test_divergence_is_zero_where_every_bin_has_a_level_of_its_own() -> None:
    counts = torch.randint(1, 99, (256,), generator=torch.Generator().manual_seed(0)).double()
    histogram = Histogram(counts, -1.0, 1.0)
    whole = divergence(histogram, torch.tensor([-1.0]).double(), torch.tensor([1.0]).double())
    assert float(whole) == pytest.approx(0.0, abs=1e-12)


def test_divergence_agrees_with_one_counted_bin_by_bin() -> None:
    counts = torch.tensor([4.0, 0.0, 2.0, 6.0, 1.0, 3.0, 5.0, 1.0]).double()
    histogram = Histogram(counts, 0.0, 8.0)
    ends = torch.tensor([0.0]).double(), torch.tensor([6.0]).double()
    truth = torch.tensor([4.0, 2.0, 6.0, 1.0, 3.0 + 6.0]).double() / 22
    told = torch.tensor([4.0, 4.0, 4.0, 2.0, 2.0]).double() / 16  # levels of two bins
    # bins 0 1 | 2 3 | 4 5: the empty one is known to be empty
    expected = (truth * (truth / told).log()).sum()
    assert float(divergence(histogram, *ends, levels=3)) == pytest.approx(float(expected))


def test_percentile_of_an_even_histogram_cuts_equal_ends() -> None:
    counts = torch.ones(100, dtype=torch.float64)
    assert percentile_range(counts, -1.0, 1.0, 95.0) == pytest.approx((-0.9, 0.9))
    assert percentile_range(counts, 0.0, 50.0, 99.0) == pytest.approx((0.5, 49.5))
    assert percentile_range(counts, -1.0, 1.0, 100.0) == pytest.approx((-1.0, 1.0))


def test_percentile_drops_a_lone_outlier_and_keeps_the_rest() -> None:
    counts = torch.zeros(10, dtype=torch.float64)
    counts[2], counts[3], counts[9] = 499.0, 500.0, 1.0
    assert percentile_range(counts, 0.0, 10.0, 99.0) == pytest.approx((2.0, 4.0))
    assert percentile_range(counts, 0.0, 10.0, 99.9999) == pytest.approx((2.0, 10.0))


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 1000), min_size=2, max_size=60).filter(any),
    percentile=st.floats(50.5, 100.0),
)
def test_percentile_leaves_out_as_much_as_it_may_and_no_more(
    counts: list[int], percentile: float
) -> None:
    histogram = torch.tensor(counts, dtype=torch.float64)
    low, high = percentile_range(histogram, 0.0, float(len(counts)), percentile)
    first, last, allowed = round(low), round(high), (100 - percentile) / 100 * sum(counts)
    assert 0 <= first < last <= len(counts)
    assert sum(counts[:first]) <= allowed + 1e-6
    assert sum(counts[last:]) <= allowed + 1e-6
    assert sum(counts[: first + 1]) > allowed - 1e-6  # one bin more would be too much
    assert sum(counts[last - 1 :]) > allowed - 1e-6


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 10**6), min_size=2, max_size=40).filter(any),
    zero=st.floats(0.0, 1.0),
    method=st.sampled_from(METHODS),
    symmetric=st.booleans(),
)
def test_any_histogram_gives_a_range(
    counts: list[int], zero: float, method: str, symmetric: bool
) -> None:
    histogram = Histogram(torch.tensor(counts, dtype=torch.float64), -zero, 1 - zero)
    low, high = find_range(histogram, method, 99.9, symmetric)
    assert low <= 0 <= high
    assert 0 < high - low <= 2.0 + 1e-9
