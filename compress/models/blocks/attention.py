"""Attention: queries, keys and values as convolutions of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import AAttn, Attention

from compress.models.blocks.expanded import Expanded


class SplitAttention(Expanded, ABC):
    """``qkv`` as ``q``, ``k`` and ``v``, each with the channels of one head after the other.

    A query channel meets the key channel of the same number, so the two go together; every head
    loses equally many. While tracing, the product over positions is left out: it mixes no channels.
    """

    def __init__(self, block: nn.Module, key_dim: int) -> None:
        super().__init__(block)
        self.heads: int = block.num_heads
        self.head_dim: int = block.head_dim
        self.key_dim = key_dim
        rows = torch.arange(block.qkv.conv.out_channels).reshape(self.heads, -1)
        q, k, v = torch.split_with_sizes(rows, [key_dim, key_dim, self.head_dim], 1)
        self.take(block, "qkv", {"q": q.flatten(), "k": k.flatten(), "v": v.flatten()})
        self.runs = {("q.conv", "out"): self.heads, ("v.conv", "out"): self.heads}
        self.adopt(block, "pe", "proj")

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the heads read from ``v``, (N, C, H, W) like ``v``."""

    def forward(self, x: Tensor) -> Tensor:
        """The same function as the stock block's; channel by channel while tracing."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.side is not None:
            self.side.append(q + k)
            return self.proj(v + self.pe(v))
        return self.proj(self.attend(q, k, v) + self.pe(v))


class SplitGlobalAttention(SplitAttention):
    """Attention of PSA blocks. Its values are as wide as its input: both lose equally many."""

    stock = Attention

    def __init__(self, block: Attention) -> None:
        super().__init__(block, block.key_dim)
        self.scale = block.scale
        self.ties.append((("q.conv", "in"), ("v.conv", "out")))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Every position attends to all others."""
        n, _, height, width = v.shape
        q, k = (x.view(n, self.heads, self.key_dim, height * width) for x in (q, k))
        values = v.view(n, self.heads, self.head_dim, height * width)
        weights = ((q * self.scale).transpose(-2, -1) @ k).softmax(-1)
        return (values @ weights.transpose(-2, -1)).view(v.shape)


class SplitAreaAttention(SplitAttention):
    """Area attention of YOLO12. Queries, keys and values are equally wide and stay so."""

    stock = AAttn

    def __init__(self, block: AAttn) -> None:
        super().__init__(block, block.head_dim)
        self.area = block.area
        self.ties.append((("q.conv", "out"), ("v.conv", "out")))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Every position attends to those of its area, a run of rows of the image."""
        q, k, values = (self._areas(x) for x in (q, k, v))
        weights = ((q * self.head_dim**-0.5).transpose(-2, -1) @ k).softmax(-1)
        read = values @ weights.transpose(-2, -1)
        n = len(v)
        read = read.view(n, self.area, self.heads * self.head_dim, -1)
        return read.transpose(1, 2).reshape(v.shape)

    def _areas(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N * areas, heads, channels of a head, positions of an area)."""
        n, channels = x.shape[:2]
        areas = x.reshape(n, channels, self.area, -1).transpose(1, 2)
        return areas.reshape(n * self.area, self.heads, self.head_dim, -1)
