"""C2f for pruning: its first convolution as two, and back.

C2f computes ``a, b = chunk(cv1(x))``. A dependency graph cannot follow channels through the chunk,
and a plain C2f needs halves of equal width. So for pruning ``cv1`` becomes two convolutions, whose
widths are tied by the solver; afterwards they are joined again and the block is a plain C2f, which
stock ultralytics loads.
"""

from __future__ import annotations

import torch
from torch import nn
from ultralytics.nn.modules import C2f, Conv

HALVES = ("first", "second")


class SplitC2f(nn.Module):
    """A C2f whose ``cv1`` is split in ``first`` and ``second``. Lives only while pruning."""

    def __init__(self, block: C2f) -> None:
        super().__init__()
        self.first = _half(block.cv1, slice(0, block.c))
        self.second = _half(block.cv1, slice(block.c, 2 * block.c))
        self.m = block.m
        self.cv2 = block.cv2
        self.i, self.f, self.type = block.i, block.f, block.type

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same function as C2f's."""
        parts = [self.first(x), self.second(x)]
        parts.extend(layer(parts[-1]) for layer in self.m)
        return self.cv2(torch.cat(parts, 1))


def _half(cv1: Conv, part: slice) -> Conv:
    width = len(range(*part.indices(cv1.conv.out_channels)))
    conv = cv1.conv
    half = Conv(conv.in_channels, width, conv.kernel_size[0], conv.stride[0], act=cv1.act)
    half.conv.weight = nn.Parameter(conv.weight.detach()[part].clone())
    _copy_norm(half.bn, [cv1.bn], part)
    return half.train(cv1.training)


def _copy_norm(target: nn.BatchNorm2d, sources: list[nn.BatchNorm2d], part: slice) -> None:
    target.eps, target.momentum = sources[0].eps, sources[0].momentum
    for name in ("weight", "bias"):
        values = torch.cat([getattr(source, name).detach()[part] for source in sources])
        setattr(target, name, nn.Parameter(values.clone()))
    for name in ("running_mean", "running_var"):
        setattr(target, name, torch.cat([getattr(s, name)[part] for s in sources]).clone())
    target.num_batches_tracked = sources[0].num_batches_tracked.clone()


def split_blocks(model: nn.Module) -> None:
    """Replace every C2f of ``model`` by its split form, in place. The function stays the same.

    Blocks that inherit C2f's forward (C3k2 ...) are split too, and keep their class when joined.
    """
    for index, layer in enumerate(model.model):
        if isinstance(layer, C2f) and type(layer).forward is C2f.forward:
            model.model[index] = SplitC2f(layer)


def join_blocks(model: nn.Module, plain: nn.Module) -> None:
    """Turn split blocks back into C2f, in place. ``plain`` is the model before the split.

    Raises:
        ValueError: if the halves of a block differ in width.
    """
    for index, layer in enumerate(model.model):
        if isinstance(layer, SplitC2f):
            model.model[index] = _join(layer, plain.model[index])


def _join(split: SplitC2f, block: C2f) -> C2f:
    first, second = split.first, split.second
    width = first.conv.out_channels
    if second.conv.out_channels != width:
        raise ValueError(f"halves of layer {split.i}: {width} and {second.conv.out_channels}")
    cv1 = Conv(first.conv.in_channels, 2 * width, 1, 1, act=first.act)
    weights = [first.conv.weight.detach(), second.conv.weight.detach()]
    cv1.conv.weight = nn.Parameter(torch.cat(weights).clone())
    _copy_norm(cv1.bn, [first.bn, second.bn], slice(None))
    block.c, block.cv1, block.m, block.cv2 = width, cv1.train(split.training), split.m, split.cv2
    return block
