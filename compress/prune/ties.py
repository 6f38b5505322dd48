"""Which groups lose equally many channels, from what the blocks demand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm

import torch

from compress.prune.groups import ChannelGroup, TiedGroups

Port = tuple[str, str]  # name of a convolution, and "in" or "out"


def tie_groups(
    groups: Sequence[ChannelGroup], ties: Sequence[tuple[Port, ...]], runs: Mapping[Port, int]
) -> tuple[tuple[TiedGroups, ...], dict[Port, str]]:
    """Put groups together that lose equally many channels.

    Args:
        groups: all groups that may be pruned.
        ties: ports whose groups must lose equally many.
        runs: port -> number of equal runs of its channels that must lose equally many.

    Returns:
        The tied groups, and for each port whose demand cannot be met the reason; what hangs on
        such a port is left out. A port without a group belongs to channels that are fixed: what is
        tied to it is fixed too, which needs no reason.
    """
    at = _groups_at_ports(groups)
    leader = list(range(len(groups)))
    for tie in ties:
        together = [index for port in tie for index in at.get(port, ())]
        for index in together[1:]:
            _unite(leader, together[0], index)
    reasons = _unmet(groups, at, ties, runs)
    whole = {_find(leader, i) for port in reasons for i in at[port]}
    for tie in ties:
        if not all(port in at for port in tie):
            whole |= {_find(leader, i) for port in tie for i in at.get(port, ())}
    parts = _parts(groups, at, runs)
    sets: dict[int, list[int]] = {}
    for index in range(len(groups)):
        sets.setdefault(_find(leader, index), []).append(index)
    return tuple(
        TiedGroups(tuple(groups[i] for i in members), tuple(parts[i] for i in members))
        for first, members in sets.items()
        if first not in whole
    ), reasons


def _groups_at_ports(groups: Sequence[ChannelGroup]) -> dict[Port, list[int]]:
    at: dict[Port, list[int]] = {}
    for index, group in enumerate(groups):
        for member in group.members:
            at.setdefault((member.conv, member.side), []).append(index)
    return at


def _unmet(
    groups: Sequence[ChannelGroup],
    at: Mapping[Port, list[int]],
    ties: Sequence[tuple[Port, ...]],
    runs: Mapping[Port, int],
) -> dict[Port, str]:
    reasons: dict[Port, str] = {}
    for tie in ties:
        present = [port for port in tie if port in at]
        for port in present:
            if len(at[port]) > 1:
                reasons[port] = f"its channels come from {len(at[port])} independent groups"
        widths = {groups[i].width for port in present for i in at[port]}
        if len(widths) > 1 and not any(port in reasons for port in present):
            reasons[present[0]] = f"groups of {sorted(widths)} channels cannot lose equally many"
    for port, count in runs.items():
        for index in at.get(port, ()):
            if not _in_runs(groups[index], port, count):
                reasons[port] = f"its channels are not {count} equal runs"
    return reasons


def _in_runs(group: ChannelGroup, port: Port, count: int) -> bool:
    """Whether the port holds the group's channels in their order, in ``count`` equal runs."""
    member = next(m for m in group.members if (m.conv, m.side) == port)
    order = member.channels[member.positions.argsort()]
    return group.width % count == 0 and torch.equal(order, torch.arange(group.width))


def _parts(
    groups: Sequence[ChannelGroup], at: Mapping[Port, list[int]], runs: Mapping[Port, int]
) -> list[int]:
    parts = [1] * len(groups)
    for port, count in runs.items():
        for index in at.get(port, ()):
            parts[index] = lcm(parts[index], count)
    return parts


def _find(leader: list[int], index: int) -> int:
    while leader[index] != index:
        index = leader[index]
    return index


def _unite(leader: list[int], first: int, second: int) -> None:
    low, high = sorted((_find(leader, first), _find(leader, second)))
    leader[high] = low
