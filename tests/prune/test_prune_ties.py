"""Which groups lose equally many channels, on groups made by hand."""

from __future__ import annotations

import torch

from compress.prune.groups import ChannelGroup, Member, split_by_use
from compress.prune.ties import tie_groups


def group(root: str, width: int, *readers: str) -> ChannelGroup:
    every = torch.arange(width)
    members = [Member(root, "out", every, every)]
    members += [Member(reader, "in", every, every) for reader in readers]
    return ChannelGroup(root, width, tuple(members))


def roots(units: tuple[object, ...]) -> list[list[str]]:
    return [[member.root for member in unit.groups] for unit in units]  # type: ignore[attr-defined]


def test_groups_without_ties_stand_alone() -> None:
    units, reasons = tie_groups([group("a", 4), group("b", 6)], [], {})
    assert roots(units) == [["a"], ["b"]]
    assert [unit.parts for unit in units] == [(1,), (1,)]
    assert reasons == {}


def test_ties_that_share_a_group_become_one() -> None:
    groups = [group("a", 4, "q"), group("b", 4), group("v", 4), group("other", 4)]
    ties = [(("a", "out"), ("b", "out")), (("q", "in"), ("v", "out"))]
    units, _ = tie_groups(groups, ties, {("v", "out"): 2})
    assert roots(units) == [["a", "b", "v"], ["other"]]
    assert units[0].parts == (1, 1, 2)


def test_what_is_tied_to_fixed_channels_is_fixed() -> None:
    ties = [(("a", "out"), ("fixed", "out")), (("a", "out"), ("b", "out"))]
    units, reasons = tie_groups([group("a", 4), group("b", 4), group("c", 4)], ties, {})
    assert roots(units) == [["c"]]
    assert reasons == {}


def test_unequal_widths_cannot_be_tied() -> None:
    units, reasons = tie_groups([group("a", 4), group("b", 6)], [(("a", "out"), ("b", "out"))], {})
    assert units == ()
    assert "4, 6" in reasons["a", "out"]


def test_a_tie_needs_one_group_at_its_port() -> None:
    groups = [group("a", 4, "reader"), group("b", 4, "reader"), group("c", 8), group("d", 8)]
    units, reasons = tie_groups(groups, [(("reader", "in"), ("c", "out"))], {})
    assert roots(units) == [["d"]]
    assert "2 independent groups" in reasons["reader", "in"]


def test_channels_that_are_no_equal_runs_stay() -> None:
    units, reasons = tie_groups([group("a", 6), group("b", 6)], [], {("a", "out"): 4})
    assert roots(units) == [["b"]]
    assert "4 equal runs" in reasons["a", "out"]


def test_channels_that_go_different_ways_are_groups_of_their_own() -> None:
    every, low, high = torch.arange(4), torch.arange(2), torch.arange(2, 4)
    whole = ChannelGroup(
        "a",
        4,
        (
            Member("a", "out", every, every),
            Member("left", "in", low, low),
            Member("right", "in", low, high),
        ),
    )
    first, second = split_by_use(whole)
    assert (first.root, first.width, second.root, second.width) == ("a[0]", 2, "a[1]", 2)
    assert [m.conv for m in second.members] == ["a", "right"]
    assert second.members[0].positions.tolist() == [2, 3]
    assert second.members[0].channels.tolist() == [0, 1]
    assert split_by_use(first) == [first]
