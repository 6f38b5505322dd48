"""Prune a YOLO model: follow its channels, score them, plan, cut, and back to plain modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, lcm

import torch
from torch import Tensor, nn

from compress.prune.cost import conv_channels
from compress.prune.groups import ChannelGroup, TiedGroups
from compress.prune.scores import Score, Slices, cut_slices, lamp
from compress.prune.solver import Budget, Effect, PrunePlan, Rules, Unit, plan_channels
from compress.prune.structure import PrunableModel


@dataclass(frozen=True)
class Importance:
    """How channels are ranked.

    ``gradient`` and ``curvature`` are models of the same structure that hold mean gradients and
    mean squared gradients in the place of parameters. ``weights`` maps a unit's first root to a
    factor on its scores, such as its measured sensitivity.
    """

    score: Score = lamp
    gradient: nn.Module | None = None
    curvature: nn.Module | None = None
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Exemptions:
    """Patterns of module names (``*`` matches any text).

    Layers of ``ignore`` keep all their outputs, those of ``min_channels`` at least so many.
    ``least`` maps roots of groups, by their own names, to channels that stay.
    """

    ignore: Sequence[str] = ()
    min_channels: Mapping[str, int] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruned:
    """The pruned model, made of stock modules, and the plan that led to it.

    ``left_whole`` says of which blocks channels were not followed, and why.
    """

    model: nn.Module
    plan: PrunePlan
    left_whole: Mapping[str, str]


def prune_model(
    model: nn.Module,
    budget: Budget,
    rules: Rules = Rules(),  # noqa: B008 - frozen
    importance: Importance = Importance(),
    exemptions: Exemptions = Exemptions(),
) -> Pruned:
    """A smaller copy of ``model`` that meets ``budget``; every width a multiple of ``rules.align``.

    Exempt from pruning: the head's outputs, DFL, and what ``exemptions`` name.

    Raises:
        CompressError: if the budget is out of reach, a pattern matches nothing, or the
            architecture holds a block whose channels cannot be followed.
    """
    structure = PrunableModel(model, exemptions.ignore)
    units = channel_units(structure, model, importance, exemptions)
    plan = plan_channels(units, conv_channels(model), budget, rules)
    for root, channels in plan.removed.items():
        structure.remove(root, channels)
    return Pruned(structure.plain(), plan, structure.left_whole)


def channel_units(
    structure: PrunableModel,
    model: nn.Module,
    importance: Importance,
    exemptions: Exemptions = Exemptions(),
) -> list[Unit]:
    """What the solver may remove from ``model``, ranked by ``importance``."""
    evidence = _Evidence(structure, model, importance)
    floors: dict[str, int] = {}
    for pattern, least in exemptions.min_channels.items():
        for conv in {structure.origin[name] for name in structure.matching(pattern)}:
            floors[conv] = max(least, floors.get(conv, 0))
    readable = conv_channels(model).keys()
    return [
        replace(
            _unit(tied, structure, evidence, importance, readable),
            floor=max(
                _floor(tied, structure, floors),
                *(exemptions.least.get(group.root, 0) for group in tied.groups),
            ),
        )
        for tied in structure.units
    ]


def _floor(tied: TiedGroups, structure: PrunableModel, floors: Mapping[str, int]) -> int:
    """Channels of each group that stay, so that every convolution named keeps its outputs."""
    pieces: dict[str, set[str]] = {}
    for group in tied.groups:
        for member in group.members:
            if member.side == "out":
                pieces.setdefault(structure.origin[member.conv], set()).add(member.conv)
    return max(
        (ceil(floors.get(conv, 0) / len(found)) for conv, found in pieces.items()), default=0
    )


class _Evidence:
    """Tensors of each convolution that scores look at."""

    def __init__(self, structure: PrunableModel, model: nn.Module, importance: Importance) -> None:
        def weights(source: nn.Module | None) -> dict[str, Tensor]:
            return structure.weights_of(source) if source is not None else {}

        self._weights = structure.weights_of(model)
        self._scales = structure.norm_scales_of(model)
        self._gradients = weights(importance.gradient)
        self._curvatures = weights(importance.curvature)

    def slices(self, group: ChannelGroup) -> list[Slices]:
        return [
            Slices(
                weight=cut_slices(self._weights[member.conv], member.side, member.positions),
                channels=member.channels,
                side=member.side,
                scale=self._scale(member.conv, member.side, member.positions),
                gradient=self._cut(self._gradients, member.conv, member.side, member.positions),
                curvature=self._cut(self._curvatures, member.conv, member.side, member.positions),
            )
            for member in group.members
        ]

    def _scale(self, conv: str, side: str, positions: Tensor) -> Tensor | None:
        scale = self._scales.get(conv) if side == "out" else None
        return None if scale is None else scale[positions]

    @staticmethod
    def _cut(
        tensors: Mapping[str, Tensor], conv: str, side: str, positions: Tensor
    ) -> Tensor | None:
        return cut_slices(tensors[conv], side, positions) if tensors else None


def _unit(
    tied: TiedGroups,
    structure: PrunableModel,
    evidence: _Evidence,
    importance: Importance,
    readable: Collection[str],
) -> Unit:
    orders, scores = [], []
    for group, parts in zip(tied.groups, tied.parts, strict=True):
        values, order = _ascending(importance.score(evidence.slices(group), group.width), parts)
        orders.append(tuple(order.tolist()))
        scores.append(values)
    mean = torch.stack(scores).mean(0) * importance.weights.get(tied.groups[0].root, 1.0)
    return Unit(
        roots=tuple(group.root for group in tied.groups),
        order=tuple(orders),
        scores=tuple(mean.tolist()),
        effects=_effects(tied, structure, readable),
        granularity=lcm(*tied.parts),
    )


def _ascending(scores: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Scores and channels in ascending order; channels of equal runs take turns.

    Of ``parts`` equal runs (attention heads) the least of each come first, then the second least
    of each: the first n * parts channels hold n of every run.
    """
    runs = scores.reshape(parts, -1)
    values, order = runs.sort(dim=1, stable=True)
    channels = order + torch.arange(parts).unsqueeze(1) * runs.shape[1]
    # the runs' mean: what is removed at once is one channel of each
    mean = values.mean(0, keepdim=True).expand_as(values)
    return mean.T.flatten(), channels.T.flatten()


def _effects(
    tied: TiedGroups, structure: PrunableModel, readable: Collection[str]
) -> tuple[Effect, ...]:
    """What one channel less of each group takes from the plain model's layers with filters."""
    taken: dict[tuple[str, str], int] = {}
    readers: dict[str, str] = {}
    for group in tied.groups:
        for member in (*group.members, *group.followers):
            plain = structure.origin.get(member.conv, member.conv)
            if plain not in readable:  # a norm
                continue
            # parts of one convolution read the same channels: they count once
            if member.side == "in" and readers.setdefault(plain, member.conv) != member.conv:
                continue
            key = (plain, member.side)
            taken[key] = taken.get(key, 0) + len(member.positions) // group.width
    return tuple(Effect(conv, side, count) for (conv, side), count in sorted(taken.items()))
