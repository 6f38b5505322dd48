"""Prune a YOLO model: groups, scores, plan, cut, and back to plain modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.blocks import HALVES, join_blocks, split_blocks
from compress.models.inspect import conv_costs, dfl_convs, head_outputs
from compress.prune.groups import ChannelGroup, DependencyGraph
from compress.prune.scores import group_magnitude, lamp, squared_norms
from compress.prune.solver import Effect, Layer, PrunePlan, Unit, plan_channels
from export.patterns import matching

# the search for groups does not end where attention reshapes channels into heads
_UNFOLLOWED = frozenset({"Attention", "AAttn"})


@dataclass(frozen=True)
class Pruned:
    """The pruned model, made of stock modules, and the plan that led to it."""

    model: nn.Module
    plan: PrunePlan


def prune_model(
    model: nn.Module,
    imgsz: int,
    keep_macs: float,
    align: int,
    max_pruned: float,
    ignore: Sequence[str] = (),
    score: Callable[[Tensor], Tensor] = lamp,
) -> Pruned:
    """A smaller copy of ``model``: ``keep_macs`` of its MACs, widths multiples of ``align``.

    Exempt from pruning: the head's class and box outputs, DFL, and layers that match a pattern of
    ``ignore`` (module names; ``*`` matches any text).

    Raises:
        CompressError: if the target is out of reach, a pattern matches nothing, or the
            architecture holds a block whose channels cannot be followed.
    """
    unfollowed = _UNFOLLOWED & {type(module).__name__ for module in model.modules()}
    if unfollowed:
        raise _unknown_architecture(model, f"{', '.join(sorted(unfollowed))} inside")
    plain = deepcopy(model).float().eval()
    plain.requires_grad_(True)  # frozen parameters would be missing from the graph
    fixed = head_outputs(plain) + dfl_convs(plain) + _matching(plain, ignore)
    work = deepcopy(plain)
    split_blocks(work)
    try:
        graph = DependencyGraph(work)
        units = _units(work, graph.groups(_after_split(work, fixed)), score)
        plan = plan_channels(units, _layers(work, imgsz), keep_macs, align, max_pruned)
        for root, channels in plan.removed.items():
            graph.remove(root, channels)
        join_blocks(work, plain)
        with torch.no_grad():
            work(torch.zeros(1, 3, imgsz, imgsz))
    except (RuntimeError, IndexError, KeyError, ValueError) as error:
        raise _unknown_architecture(model, f"{type(error).__name__}: {error}") from error
    return Pruned(work, plan)


def _unknown_architecture(model: nn.Module, reason: str) -> CompressError:
    blocks = sorted({type(layer).__name__ for layer in model.model})
    return CompressError(
        f"prune: this architecture cannot be pruned yet ({reason}). Its blocks: "
        f"{', '.join(blocks)}. Give a model built of C2f (YOLOv8) or of C3 (YOLOv5u)."
    )


def _matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    matched: list[str] = []
    for pattern in patterns:
        found = matching(names, pattern)
        if not found:
            raise CompressError(f"prune: `ignore` pattern '{pattern}' matches no layer.")
        matched += found
    return matched


def _after_split(work: nn.Module, names: Sequence[str]) -> list[str]:
    """Names of the same convolutions in the split model."""
    present = dict(work.named_modules())
    result = []
    for name in names:
        block = name.removesuffix(".cv1.conv")
        halves = [f"{block}.{half}.conv" for half in HALVES]
        result += [name] if name in present else halves
    return result


def _units(
    model: nn.Module, groups: Sequence[ChannelGroup], score: Callable[[Tensor], Tensor]
) -> list[Unit]:
    modules = dict(model.named_modules())
    tied = [list(members) for _, members in groupby(sorted(groups, key=_tie), key=_tie)]
    return [_unit(members, modules, score) for members in tied if _whole(members)]


def _tie(group: ChannelGroup) -> str:
    """Groups with the same tie lose equally many channels: the halves of one C2f."""
    halves = sorted(_halves(group))
    return f"{halves[0].rpartition('.')[0]}.cv1" if halves else group.root


def _whole(groups: Sequence[ChannelGroup]) -> bool:
    """Whether both halves of a C2f may lose channels: one alone must keep its width."""
    return len({half for group in groups for half in _halves(group)}) != 1


def _halves(group: ChannelGroup) -> set[str]:
    outputs = {m.conv.removesuffix(".conv") for m in group.members if m.side == "out"}
    return {name for name in outputs if name.rpartition(".")[2] in HALVES}


def _unit(
    groups: Sequence[ChannelGroup],
    modules: dict[str, nn.Module],
    score: Callable[[Tensor], Tensor],
) -> Unit:
    orders, scores = [], []
    effects: dict[tuple[str, str], int] = {}
    for group in groups:
        norms = [squared_norms(modules[m.conv].weight, m.side, m.positions) for m in group.members]
        magnitudes = group_magnitude(norms, [m.channels for m in group.members], group.width)
        values, order = score(magnitudes).sort(stable=True)
        orders.append(tuple(order.tolist()))
        scores.append(values)
        for member in group.members:
            key = (member.conv, member.side)
            effects[key] = effects.get(key, 0) + len(member.positions) // group.width
    return Unit(
        roots=tuple(group.root for group in groups),
        order=tuple(orders),
        scores=tuple(torch.stack(scores).mean(0).tolist()),
        effects=tuple(Effect(conv, side, n) for (conv, side), n in sorted(effects.items())),
    )


def _layers(model: nn.Module, imgsz: int) -> dict[str, Layer]:
    modules = dict(model.named_modules())
    return {
        name: Layer(modules[name].weight.shape[1], modules[name].weight.shape[0], cost.macs)
        for name, cost in conv_costs(model, imgsz).items()
    }
