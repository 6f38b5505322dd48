"""Decode only the cells that can matter: those with the highest class scores.

Most of a decode's time goes to thousands of cells that no threshold will let pass. The graph looks
for the best cells among the class logits, and decodes these: each exactly as all would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from ultralytics.nn.modules import Detect
from ultralytics.utils.tal import make_anchors

_LARGEST_GROUP = 16


class SparseDecode:
    """Stands in for ``_inference`` of one head; its own decoding runs on the chosen cells.

    Gives (1, 4 + classes + extras, k) with k = ``keep``, or all cells where there are fewer, by
    falling score.
    """

    def __init__(self, head: Detect, keep: int) -> None:
        self.head = head
        self.keep = keep
        self._shape: torch.Size | None = None

    def __call__(self, raw: Mapping[str, Any]) -> Tensor:
        """Decode ``raw``: class logits, box bins and extras (1, channels, cells), and ``feats``."""
        features = raw["feats"]
        points, strides = self._grid(features)
        cells = best_cells(raw["scores"], self.keep)
        kept = {name: at_cells(value, cells) for name, value in raw.items() if name != "feats"}
        self.head.shape = features[0].shape  # else the head would make its own grid
        self.head.anchors = points.index_select(1, cells)
        self.head.strides = strides.index_select(1, cells)
        return type(self.head)._inference(self.head, {**kept, "feats": features})

    def _grid(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Centres (2, cells) and strides (1, cells); made once, so that a graph stores them."""
        if self._shape != features[0].shape:
            points, strides = make_anchors(features, self.head.stride, 0.5)
            self._points, self._strides = points.T.contiguous(), strides.T.contiguous()
            self._shape = features[0].shape
        return self._points, self._strides


def best_cells(scores: Tensor, keep: int) -> Tensor:
    """Indices (k,) of the cells of ``scores`` (1, classes, cells) whose best class scores highest.

    By falling score; k is ``keep``, or the number of cells where that is less.
    """
    _, classes, cells = scores.shape
    # ONNX Runtime reduces 16 rows at a time nine times as fast as 80 (seen in 1.31)
    group = max(n for n in range(1, _LARGEST_GROUP + 1) if classes % n == 0)
    best = scores.reshape(1, classes // group, group, cells).amax(2).amax(1)
    return highest(best[0], min(keep, int(cells)))


def highest(values: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest of ``values`` (n,), falling; of equal ones the first first.

    ONNX promises that order of its TopK, PyTorch does not.
    """
    if torch.onnx.is_in_onnx_export():
        return values.topk(count)[1]
    return values.sort(descending=True, stable=True)[1][:count]


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """The columns ``cells`` (k,) of ``maps`` (1, channels, cells): (1, channels, k)."""
    # as GatherElements: ONNX Runtime's Gather along the last axis takes five times as long
    return maps.gather(2, cells.view(1, 1, -1).expand(1, maps.shape[1], -1))
