"""Channels that must go together, found by torch-pruning's dependency graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, nn

TRACE_SIZE = 64


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
    """Channels of the convolution ``root`` and all that hangs on them."""

    root: str
    width: int
    members: tuple[Member, ...]


class DependencyGraph:
    """torch-pruning's graph of one model, in terms of module names."""

    def __init__(self, model: nn.Module) -> None:
        """Trace ``model`` once on an empty image. All its parameters must require gradients."""
        self._modules = dict(model.named_modules())
        self._names = {module: name for name, module in self._modules.items()}
        example = torch.zeros(1, 3, TRACE_SIZE, TRACE_SIZE)
        self._graph = tp.DependencyGraph().build_dependency(model, example)

    def groups(self, fixed: Sequence[str]) -> list[ChannelGroup]:
        """All groups, in a fixed order, but those that would cut an output of ``fixed``."""
        ignored = [self._modules[name] for name in fixed]
        found = self._graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d])
        groups = [self._describe(group) for group in found]
        return sorted(groups, key=lambda group: group.root)

    def _describe(self, group: tp.Group) -> ChannelGroup:
        members = []
        for item in group:
            module = item.dep.target.module
            if not isinstance(module, nn.Conv2d):
                continue
            side = "in" if "in_channels" in item.dep.handler.__name__ else "out"
            positions, channels = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
            members.append(Member(self._names[module], side, positions, channels))
        root = self._names[group[0].dep.target.module]
        return ChannelGroup(root, len(group[0].idxs), tuple(members))

    def remove(self, root: str, channels: Sequence[int]) -> None:
        """Take ``channels`` out of the convolution ``root`` and of all that hangs on it."""
        conv = self._modules[root]
        group = self._graph.get_pruning_group(conv, tp.prune_conv_out_channels, list(channels))
        group.prune()
