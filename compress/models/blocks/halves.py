"""Blocks that chunk the output of their first convolution in two halves of equal width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import C2, C2PSA, PSA, C2f, RepNCSPELAN4

from compress.models.blocks.expanded import Expanded, consecutive


class SplitHalves(Expanded):
    """``cv1`` as two convolutions, ``first`` and ``second``, that lose equally many channels."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block)
        half = block.cv1.conv.out_channels // 2
        first, second = consecutive(half, half)
        self.take(block, "cv1", {"first": first, "second": second})
        self.ties.append((("first.conv", "out"), ("second.conv", "out")))
        self.adopt(block, *(name for name, _ in block.named_children() if name != "cv1"))


class SplitC2f(SplitHalves):
    """C2f, C3k2, C2fCIB, C2fPSA."""

    stock = C2f

    def forward(self, x: Tensor) -> Tensor:
        """The same function as C2f's."""
        parts = [self.first(x), self.second(x)]
        parts.extend(layer(parts[-1]) for layer in self.m)
        return self.cv2(torch.cat(parts, 1))


class SplitC2(SplitHalves):
    """C2."""

    stock = C2

    def forward(self, x: Tensor) -> Tensor:
        """The same function as C2's."""
        return self.cv2(torch.cat((self.m(self.first(x)), self.second(x)), 1))


class SplitELAN(SplitHalves):
    """RepNCSPELAN4, ELAN1."""

    stock = RepNCSPELAN4

    def forward(self, x: Tensor) -> Tensor:
        """The same function as RepNCSPELAN4's."""
        parts = [self.first(x), self.second(x)]
        parts.extend(layer(parts[-1]) for layer in (self.cv2, self.cv3))
        return self.cv4(torch.cat(parts, 1))


class SplitC2PSA(SplitHalves):
    """C2PSA."""

    stock = C2PSA

    def forward(self, x: Tensor) -> Tensor:
        """The same function as C2PSA's."""
        return self.cv2(torch.cat((self.first(x), self.m(self.second(x))), 1))


class SplitPSA(SplitHalves):
    """PSA."""

    stock = PSA

    def forward(self, x: Tensor) -> Tensor:
        """The same function as PSA's."""
        stream = self.second(x)
        stream = stream + self.attn(stream)
        stream = stream + self.ffn(stream)
        return self.cv2(torch.cat((self.first(x), stream), 1))
