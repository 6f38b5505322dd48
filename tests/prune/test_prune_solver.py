"""The solver on made-up chains of convolutions: what it promises holds for all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from compress.errors import CompressError
from compress.prune.solver import (
    TOLERANCE,
    Budget,
    Cost,
    Effect,
    PrunePlan,
    Rules,
    Unit,
    plan_channels,
)

FIXED_OUTPUTS = 7
RULES = Rules(1, 0.95)


@dataclass(frozen=True)
class Chain:
    """conv0 -> conv1 -> ... ; a tied link is two convolutions side by side, concatenated."""

    widths: tuple[int, ...]
    tied: tuple[bool, ...]
    positions: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]

    def units(self) -> list[Unit]:
        return [self._unit(index) for index in range(len(self.widths))]

    def _unit(self, index: int) -> Unit:
        roots = self._roots(index)
        width = self.widths[index]
        effects = [Effect(root, "out", 1) for root in roots]
        effects += [Effect(reader, "in", len(roots)) for reader in self._roots(index + 1)]
        order = tuple(range(width)), tuple(reversed(range(width)))
        return Unit(tuple(roots), order[: len(roots)], self.scores[index], tuple(effects))

    def _roots(self, index: int) -> list[str]:
        if index == len(self.widths):
            return ["last"]
        return [f"{index}.a", f"{index}.b"] if self.tied[index] else [str(index)]

    def layers(self) -> dict[str, tuple[int, int]]:
        layers, inputs = {}, 3
        for index, width in enumerate(self.widths):
            for root in self._roots(index):
                layers[root] = (inputs, width)
            inputs = width * len(self._roots(index))
        return {**layers, "last": (inputs, FIXED_OUTPUTS)}

    def cost(self) -> Cost:
        def of(layer: str, inputs: int, outputs: int) -> float:
            index = -1 if layer == "last" else int(layer.partition(".")[0])
            return inputs * outputs * self.positions[index]

        return Cost(of)

    def kept(self, found: PrunePlan) -> list[int]:
        """Widths after the plan."""
        return [
            width - len(found.removed.get(self._roots(index)[0], ()))
            for index, width in enumerate(self.widths)
        ]

    def macs(self, widths: list[int]) -> int:
        """All MACs at these widths, counted from the picture of the chain."""
        total, inputs = 0, 3
        for index, width in enumerate(widths):
            branches = 2 if self.tied[index] else 1
            total += branches * inputs * width * self.positions[index]
            inputs = branches * width
        return total + inputs * FIXED_OUTPUTS * self.positions[-1]


@st.composite
def chains(draw: st.DrawFn, least: int = 4, most: int = 64, step: int = 1) -> Chain:
    counts = st.integers(-(-least // step), most // step).map(lambda count: count * step)
    widths = draw(st.lists(counts, min_size=1, max_size=6))
    share = st.floats(0.0, 1.0, exclude_min=True)
    return Chain(
        tuple(widths),
        tuple(draw(st.booleans()) for _ in widths),
        tuple(draw(st.sampled_from([1, 4, 16, 64])) for _ in range(len(widths) + 1)),
        tuple(tuple(sorted(draw(share) for _ in range(width))) for width in widths),
    )


def plan(chain: Chain, keep: float, align: int, most: float, **rules: Any) -> PrunePlan:
    whole = chain.macs(list(chain.widths))
    budget = Budget("MACs", chain.cost(), keep * whole, whole)
    return plan_channels(chain.units(), chain.layers(), budget, Rules(align, most, **rules))


def solve(chain: Chain, keep: float, align: int, most: float, **rules: Any) -> PrunePlan:
    try:
        return plan(chain, keep, align, most, **rules)
    except CompressError as error:
        assume("cannot be reached" not in str(error))
        raise


KEEP, ALIGN, MOST = st.floats(0.05, 0.95), st.sampled_from([1, 2, 4]), st.floats(0.1, 0.95)


@given(chains(), KEEP, ALIGN, MOST)
def test_widths_are_aligned_and_capped_and_the_count_is_right(
    chain: Chain, keep: float, align: int, most: float
) -> None:
    found = solve(chain, keep, align, most)
    kept = chain.kept(found)
    assert all(width % align == 0 and width > 0 for width in kept)
    for width, left in zip(chain.widths, kept, strict=True):
        assert width - left <= max(most * width + 1e-9, width % align)
    assert found.before == chain.macs(list(chain.widths))
    assert found.after == chain.macs(kept)


@given(chains(), KEEP, ALIGN, MOST)
def test_the_target_is_met_or_no_block_more_or_less_comes_closer(
    chain: Chain, keep: float, align: int, most: float
) -> None:
    found = solve(chain, keep, align, most)
    target = keep * found.before
    if abs(found.after / target - 1) <= TOLERANCE:
        return
    kept = chain.kept(found)
    for index, width in enumerate(chain.widths):
        least = max(align, width * (1 - most))
        for block in (-align, align):
            if not least <= kept[index] + block <= width // align * align:
                continue
            other = [w + block * (i == index) for i, w in enumerate(kept)]
            # one further block may also be given back where several were needed to get so far
            assert abs(chain.macs(other) - target) >= abs(found.after - target) * (1 - 1e-9)


@given(chains(), KEEP, ALIGN, MOST)
def test_the_least_important_channels_of_each_group_go(
    chain: Chain, keep: float, align: int, most: float
) -> None:
    found = solve(chain, keep, align, most)
    for unit in chain.units():
        counts = {len(found.removed.get(root, ())) for root in unit.roots}
        assert len(counts) == 1  # halves lose equally many
        for root, order in zip(unit.roots, unit.order, strict=True):
            removed = found.removed.get(root, ())
            assert set(removed) == set(order[: len(removed)])


@given(chains(least=32), st.floats(0.3, 0.9), st.floats(0.3, 0.9))
def test_a_fine_grid_is_met_within_one_percent_and_less_means_less(
    chain: Chain, one: float, other: float
) -> None:
    assume(len(chain.widths) >= 3 and abs(one - other) > 0.05)
    more, less = (solve(chain, keep, 1, 0.95) for keep in (max(one, other), min(one, other)))
    assert less.after < more.after
    # one channel of 32 may be 3 % of a layer, and a layer nearly all of the net
    step = max(1 / width for width in chain.widths)
    assert abs(less.after / less.before - min(one, other)) <= max(0.01, step)


@given(chains(least=8), st.sampled_from([1, 2, 4]), st.floats(0.1, 0.6))
def test_an_unreachable_target_says_what_can_be_reached(
    chain: Chain, align: int, most: float
) -> None:
    with pytest.raises(CompressError, match=r"target.*max_pruned.*align") as caught:
        plan(chain, 0.01, align, most)
    remain = float(re.search(r"([\d.]+)% remain", str(caught.value)).group(1)) / 100
    least = plan(chain, remain + 0.001, align, most)
    assert least.after / least.before <= (remain + 0.001) * (1 + TOLERANCE)
    if remain > 0.03:
        with pytest.raises(CompressError, match="cannot be reached"):
            plan(chain, remain - 0.02, align, most)


def test_blocks_go_in_the_order_of_their_scores() -> None:
    widths = (8, 8, 8)
    scores = ((0.9,) * 8, (0.1,) * 4 + (0.5,) * 4, (0.3,) * 8)
    chain = Chain(widths, (False,) * 3, (1, 1, 1, 1), scores)
    # 208 MACs: conv 1 is cut first, then conv 2; conv 0 holds what matters most
    first = plan(chain, 144 / 208, 4, 0.9)
    assert {root: len(channels) for root, channels in first.removed.items()} == {"1": 4}
    second = plan(chain, 100 / 208, 4, 0.9)
    assert {root: len(channels) for root, channels in second.removed.items()} == {"1": 4, "2": 4}


def test_near_the_target_a_block_that_would_overshoot_is_passed_over() -> None:
    # the lowest score hangs on nearly all MACs, the highest on few
    chain = Chain((8, 8), (False, False), (20, 1, 100), ((0.9,) * 8, (0.1,) * 8))
    keep = chain.macs([4, 8]) / chain.macs([8, 8])
    assert chain.macs([8, 4]) < 0.9 * chain.macs([4, 8])
    found = plan(chain, keep, 4, 0.9)
    assert chain.kept(found) == [4, 8]


def test_a_layer_narrower_than_a_block_is_left_whole_and_named() -> None:
    chain = Chain((16, 6), (False, False), (1, 1, 1), ((0.5,) * 16, (0.1,) * 6))
    found = plan(chain, 0.65, 8, 0.9)
    assert chain.kept(found)[1] == 6
    assert found.narrow == ("1",)


def test_alignment_never_goes_below_a_floor() -> None:
    chain = Chain((24, 16), (False, False), (1, 1, 1), ((0.5,) * 24, (0.5,) * 16))
    units = [replace(unit, floor=20) for unit in chain.units()]
    budget = Budget("MACs", chain.cost(), 500, chain.macs([24, 16]))
    with pytest.raises(CompressError, match=r"'0' has 24 channels, of which 20 must stay"):
        plan_channels(units, chain.layers(), budget, Rules(16))


def test_an_unreachable_share_is_one_of_the_whole() -> None:
    chain = Chain((16, 16), (False, False), (1, 1, 1), ((0.5,) * 16,) * 2)
    now = chain.macs([16, 16])
    budget = Budget("MACs", chain.cost(), 0.01 * now, 10 * now)  # ten times as much at first
    with pytest.raises(CompressError, match=r"0\.1% of the MACs .* [0-3]\.\d% remain"):
        plan_channels(chain.units(), chain.layers(), budget, Rules(4, 0.5))


def test_whole_kernel_blocks_go_where_widths_allow() -> None:
    chain = Chain((32, 24), (False, False), (1, 1, 1), ((0.5,) * 32, (0.5,) * 24))
    budget = Budget("MACs", chain.cost(), 600, chain.macs([32, 24]))
    kept = chain.kept(plan_channels(chain.units(), chain.layers(), budget, Rules(8, 0.9, step=16)))
    assert kept[0] % 16 == 0
    assert kept[1] % 8 == 0


def test_odd_widths_are_aligned_even_if_the_target_asks_for_no_more() -> None:
    chain = Chain((10, 21), (False, True), (1, 1, 1), ((0.5,) * 10, (0.5,) * 21))
    found = plan(chain, 0.99, 4, 0.9)
    assert chain.kept(found) == [8, 20]


@given(chains(least=32), KEEP)
def test_local_scope_takes_nearly_equal_shares(chain: Chain, keep: float) -> None:
    kept = chain.kept(solve(chain, keep, 1, 0.95, scope="local"))
    shares = [left / width for left, width in zip(kept, chain.widths, strict=True)]
    # a block each, and what settling at the end moves
    assert max(shares) - min(shares) <= 8 / min(chain.widths)


def test_score_by_cost_prefers_what_saves_more() -> None:
    # the first matters a little less, but nearly all MACs hang on the second
    chain = Chain((16, 16), (False, False), (1, 1, 20), ((0.5,) * 16, (0.6,) * 16))
    by_score = chain.kept(plan(chain, 0.5, 1, 0.9))
    by_cost = chain.kept(plan(chain, 0.5, 1, 0.9, rank="score_per_cost"))
    assert by_score[0] < 4 < 12 <= by_cost[0]


@given(chains(least=16), KEEP, st.integers(1, 16))
def test_floors_are_kept(chain: Chain, keep: float, floor: int) -> None:
    units = [replace(unit, floor=floor) for unit in chain.units()]
    whole = chain.macs(list(chain.widths))
    budget = Budget("MACs", chain.cost(), keep * whole, whole)
    try:
        found = plan_channels(units, chain.layers(), budget, Rules(1, 0.95))
    except CompressError:
        return
    assert all(left >= floor for left in chain.kept(found))


@given(chains(least=24, step=6), KEEP, st.sampled_from([2, 3, 6]), st.sampled_from([1, 4]))
def test_units_with_heads_lose_the_same_of_every_head(
    chain: Chain, keep: float, heads: int, align: int
) -> None:
    units = [replace(unit, granularity=heads) for unit in chain.units()]
    whole = chain.macs(list(chain.widths))
    budget = Budget("MACs", chain.cost(), keep * whole, whole)
    try:
        found = plan_channels(units, chain.layers(), budget, Rules(align, 0.95))
    except CompressError:
        return
    assert all(left % heads == 0 and left % align == 0 for left in chain.kept(found))


@given(chains(), st.floats(0.2, 0.9), st.floats(0.1, 1e5))
def test_a_fixed_rest_is_part_of_the_budget(chain: Chain, keep: float, fixed: float) -> None:
    cost = Cost(chain.cost().of, fixed)
    whole = chain.macs(list(chain.widths)) + fixed
    try:
        found = plan_channels(
            chain.units(), chain.layers(), Budget("t", cost, keep * whole, whole), RULES
        )
    except CompressError:
        return
    assert found.before == pytest.approx(whole)
    assert found.after == pytest.approx(chain.macs(chain.kept(found)) + fixed)
