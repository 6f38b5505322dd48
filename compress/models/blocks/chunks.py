"""YOLOv9's blocks that take feature maps apart outside of CSP: ADown and CBLinear."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from ultralytics.nn.modules import ADown, CBLinear

from compress.models.blocks.expanded import Expanded, consecutive


class SlicedADown(Expanded):
    """ADown: each half of the *input* goes its own way, so the halves lose equally many."""

    stock = ADown

    def __init__(self, block: ADown) -> None:
        super().__init__(block)
        self.half = block.cv1.conv.in_channels
        self.ties.append((("cv1.conv", "in"), ("cv2.conv", "in")))
        self.adopt(block, "cv1", "cv2")

    def forward(self, x: Tensor) -> Tensor:
        """The same function as ADown's."""
        x = functional.avg_pool2d(x, 2, 1, 0, False, True)
        first, second = x[:, : self.half], x[:, self.half :]
        pooled = functional.max_pool2d(second, 3, 2, 1)
        return torch.cat((self.cv1(first), self.cv2(pooled)), 1)


class SplitCBLinear(Expanded):
    """CBLinear: one convolution for each of the levels that its output is meant for."""

    stock = CBLinear

    def __init__(self, block: CBLinear) -> None:
        super().__init__(block)
        self.levels = [f"level{index}" for index in range(len(block.c2s))]
        self.take(block, "conv", dict(zip(self.levels, consecutive(*block.c2s), strict=True)))

    def forward(self, x: Tensor) -> tuple[nn.Module, ...]:
        """The same function as CBLinear's."""
        return tuple(getattr(self, level)(x) for level in self.levels)
