"""Numbers that stock blocks keep beside their layers, and that must follow their widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import (
    C2,
    C2PSA,
    PSA,
    SPPELAN,
    A2C2f,
    ADown,
    C2f,
    CBLinear,
    RepConv,
    RepNCSPELAN4,
)
from ultralytics.nn.modules.block import AAttn, Attention, RepVGGDW

from compress.errors import CompressError


def block_numbers(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Block -> numbers of it that no width of a layer tells."""
    numbers: dict[str, dict[str, Any]] = {}
    for name, block in model.named_modules():
        if isinstance(block, CBLinear):
            numbers[name] = {"c2s": [int(width) for width in block.c2s]}
        elif isinstance(block, Attention):
            numbers[name] = {"scale": float(block.scale)}
    return numbers


def set_block_numbers(model: nn.Module, numbers: Mapping[str, Mapping[str, Any]]) -> None:
    """The counterpart of `block_numbers`, in place; numbers may come from anywhere.

    Raises:
        CompressError: if they are not numbers of this model's blocks.
    """
    expected = {name: set(values) for name, values in block_numbers(model).items()}
    if {name: set(values) for name, values in numbers.items()} != expected:
        raise CompressError("model spec: `blocks` does not list the architecture's blocks.")
    for name, values in numbers.items():
        block = model.get_submodule(name)
        for key, value in values.items():
            if isinstance(value, list) != (key == "c2s"):
                raise CompressError(f"model spec: `blocks.{name}.{key}`: {value!r} is no size.")
            setattr(block, key, value)


def settle(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Bring the blocks' numbers in line with layers that were cut, in place.

    Args:
        model: a stock model whose layers have lost channels already.
        kept: convolution -> its output channels that stayed, numbered as before the cut.
    """
    for name, block in model.named_modules():
        if isinstance(block, CBLinear):
            block.c2s = _level_widths(block.c2s, kept.get(f"{name}.conv"))
        elif isinstance(block, Attention):
            _settle_attention(block)
        elif isinstance(block, AAttn):
            _settle_area_attention(block)
        elif isinstance(block, RepConv):
            if not hasattr(block, "conv"):  # not fused
                conv = block.conv1.conv
                block.c1, block.c2 = conv.in_channels, conv.out_channels
        elif isinstance(block, RepVGGDW):
            block.dim = block.conv.conv.out_channels
        elif isinstance(block, (ADown, SPPELAN)):
            block.c = block.cv1.conv.out_channels
        elif isinstance(block, (C2, C2f, C2PSA, PSA, RepNCSPELAN4)):
            block.c = block.cv1.conv.out_channels // 2
        elif isinstance(block, A2C2f) and block.gamma is not None:
            _settle_gamma(block, kept.get(f"{name}.cv2.conv"))


def _level_widths(widths: list[int], kept: Tensor | None) -> list[int]:
    if kept is None:
        return list(widths)
    mask = torch.zeros(sum(widths), dtype=torch.int64)
    mask[kept] = 1
    return [int(level.sum()) for level in torch.split_with_sizes(mask, list(widths))]


def _settle_attention(block: Attention) -> None:
    """``scale`` stays: it was made for the key channels that the block was trained with."""
    values = block.proj.conv.in_channels
    block.head_dim = values // block.num_heads
    block.key_dim = (block.qkv.conv.out_channels - values) // (2 * block.num_heads)


def _settle_area_attention(block: AAttn) -> None:
    """AAttn scales by ``head_dim ** -0.5``; the queries take over what that changes."""
    values = block.proj.conv.in_channels
    before, after = block.head_dim, values // block.num_heads
    block.head_dim, block.all_head_dim = after, values
    if after != before:
        queries = torch.zeros(block.num_heads, 3 * after, dtype=torch.bool)
        queries[:, :after] = True
        factor = torch.where(queries.flatten(), (after / before) ** 0.5, 1.0)
        with torch.no_grad():
            block.qkv.bn.weight *= factor.to(block.qkv.bn.weight)
            block.qkv.bn.bias *= factor.to(block.qkv.bn.bias)


def _settle_gamma(block: A2C2f, kept: Tensor | None) -> None:
    """One factor for each channel that the block adds to its input."""
    gamma = block.gamma
    if kept is not None:
        chosen = gamma.detach()[kept]
    elif len(gamma) != block.cv2.conv.out_channels:  # about to be loaded
        chosen = gamma.new_zeros(block.cv2.conv.out_channels)
    else:
        return
    block.gamma = nn.Parameter(chosen, requires_grad=gamma.requires_grad)
