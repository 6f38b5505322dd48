"""Channels that must go together, found by torch-pruning's dependency graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.models.channels import is_depthwise

TRACE_SIZE = 64
_CONVS = (nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Member:
    """One side of one convolution that loses channels with its group.

    ``positions`` (n,) are the convolution's channels, ``channels`` (n,) the group's channels that
    they belong to. ``n`` is a multiple of the group's width.
    """

    conv: str
    side: str
    positions: Tensor
    channels: Tensor


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of the convolution ``root`` and all that hangs on them.

    Where one convolution's channels go different ways, each run of them is a group of its own,
    and ``root`` is the convolution's name with the number of the run: ``model.3.cv4.conv[1]``.
    ``followers`` are layers of other kinds that lose channels too.
    """

    root: str
    width: int
    members: tuple[Member, ...]
    followers: tuple[Member, ...] = ()


@dataclass(frozen=True)
class TiedGroups:
    """Groups that lose equally many channels: halves of a C2f, stream and values of an attention.

    ``parts``: for each group, its channels are this many equal runs (the heads of an attention)
    which lose equally many; 1 for most.
    """

    groups: tuple[ChannelGroup, ...]
    parts: tuple[int, ...]


class DependencyGraph:
    """torch-pruning's graph of one model, in terms of module names."""

    def __init__(
        self, model: nn.Module, trace: Callable[[nn.Module, Tensor], Sequence[Tensor]]
    ) -> None:
        """Trace ``model`` once on an empty image. All its parameters must require gradients.

        Args:
            model: the model.
            trace: (model, image) -> outputs from which autograd leads back to every layer.
        """
        self._modules = dict(model.named_modules())
        self._names = {module: name for name, module in self._modules.items()}
        self._graph = tp.DependencyGraph().build_dependency(
            model, torch.zeros(1, 3, TRACE_SIZE, TRACE_SIZE), forward_fn=trace, verbose=False
        )

    def groups(self, fixed: Sequence[str]) -> tuple[list[ChannelGroup], list[ChannelGroup]]:
        """All groups but those that would cut an output of ``fixed``, in a fixed order.

        Returns:
            The groups that can be pruned, and the tangled ones: there one channel comes back to
            its group as another one, as where a map is added to two copies of a narrower one.
        """
        ignored = [self._modules[name] for name in fixed]
        sound, tangled = [], []
        for found in self._graph.get_all_groups(
            ignored_layers=ignored, root_module_types=list(_CONVS)
        ):
            group = self._describe(found)
            parts = split_by_use(group)
            if len(parts) == 1 or all(self._is_closed(part) for part in parts):
                sound += parts
            else:
                tangled.append(group)
        lost = {member.conv for group in tangled for member in group.members}
        return [
            group
            for group in sorted(sound, key=lambda group: group.root)
            if not any(m.conv in lost for m in group.members if m.side == "out")
        ], tangled

    def _is_closed(self, part: ChannelGroup) -> bool:
        """Whether the same channels are found from wherever one starts."""
        found = _positions(part)
        for member in part.members:
            if member.side == "out" and member.conv != part.root.partition("[")[0]:
                layer = self._modules[member.conv]
                start = sorted(found[member.conv, "out"])
                again = self._graph.get_pruning_group(layer, tp.prune_conv_out_channels, start)
                if _positions(self._describe(again)) != found:
                    return False
        return True

    def _describe(self, group: tp.Group) -> ChannelGroup:
        members: list[Member] = []
        followers: list[Member] = []
        for item in group:
            module = item.dep.target.module
            if module not in self._names:  # an operation, not a layer
                continue
            reads = "in_channels" in item.dep.handler.__name__ and not is_depthwise(module)
            positions, channels = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
            member = Member(self._names[module], "in" if reads else "out", positions, channels)
            (members if isinstance(module, _CONVS) else followers).append(member)
        root = self._names[group[0].dep.target.module]
        return ChannelGroup(root, len(group[0].idxs), tuple(members), tuple(followers))


def _positions(group: ChannelGroup) -> dict[tuple[str, str], set[int]]:
    """(Layer, side) -> its channels in the group."""
    found: dict[tuple[str, str], set[int]] = {}
    for member in (*group.members, *group.followers):
        found.setdefault((member.conv, member.side), set()).update(member.positions.tolist())
    return found


def split_by_use(group: ChannelGroup) -> list[ChannelGroup]:
    """The group, taken apart where its channels do not all go through the same layers.

    Channels that are read by the same sides of the same layers, equally often, stay together.
    """
    uses: list[Counter[int]] = [Counter() for _ in range(group.width)]
    sides = (*group.members, *group.followers)
    for index, member in enumerate(sides):
        for channel in member.channels.tolist():
            uses[channel][index] += 1
    kinds = list(dict.fromkeys(frozenset(use.items()) for use in uses))
    if len(kinds) == 1:
        return [group]
    parts = []
    for number, kind in enumerate(kinds):
        chosen = [c for c, use in enumerate(uses) if frozenset(use.items()) == kind]
        parts.append(_part(group, torch.tensor(chosen), f"{group.root}[{number}]"))
    return parts


def _part(group: ChannelGroup, chosen: Tensor, root: str) -> ChannelGroup:
    number = torch.full((group.width,), -1)
    number[chosen] = torch.arange(len(chosen))

    def renumbered(members: Sequence[Member]) -> tuple[Member, ...]:
        kept = []
        for member in members:
            inside = number[member.channels] >= 0
            if inside.any():
                positions, channels = member.positions[inside], number[member.channels[inside]]
                kept.append(replace(member, positions=positions, channels=channels))
        return tuple(kept)

    return ChannelGroup(root, len(chosen), renumbered(group.members), renumbered(group.followers))
