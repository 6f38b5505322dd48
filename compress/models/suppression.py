"""Non-maximum suppression inside the graph, with an output of fixed size.

What ultralytics does behind a decoded file when it predicts: of each cell the best class alone,
boxes of one class against each other. Oriented boxes: ONNX has no operator for them, so all pairs
are compared at once by their ProbIoU (https://arxiv.org/abs/2106.06072), as Fast NMS
(https://arxiv.org/abs/1904.02689).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, box_convert
from ultralytics.nn.modules import OBB, Detect
from ultralytics.utils.metrics import batch_probiou

from compress.models.sparse_decode import highest


class Suppression:
    """Stands in for ``forward`` of one head.

    Gives (1, max_boxes, 6 + extras) by falling score, then zeros: x1, y1, x2, y2 (of oriented
    boxes x, y, width, height), score, class, extras. Segmentation gives the prototypes beside it.
    """

    def __init__(self, head: Detect, iou: float, score: float, max_boxes: int) -> None:
        self.head = head
        self.iou, self.score, self.max_boxes = iou, score, max_boxes

    def __call__(self, features: list[Tensor]) -> Any:
        """Boxes of ``features``, one map (1, channels, height, width) a level."""
        output = type(self.head).forward(self.head, features)
        decoded, *others = output if isinstance(output, tuple) else (output,)
        rows = self._of_rows(decoded) if self.head.end2end else self._of_cells(decoded)
        return (rows, *others) if others else rows

    def _of_rows(self, rows: Tensor) -> Tensor:
        """An end-to-end head suppresses itself: only low scores are left to drop."""
        rows = rows[:, : self.max_boxes]
        rows = rows * (rows[..., 4:5] > self.score)
        return F.pad(rows, (0, 0, 0, self.max_boxes - rows.shape[1]))

    def _of_cells(self, decoded: Tensor) -> Tensor:
        """Rows of decoded cells (1, 4 + classes + extras, cells)."""
        sizes = [4, self.head.nc, decoded.shape[1] - 4 - self.head.nc]
        boxes, scores, extras = decoded.split_with_sizes(sizes, 1)
        score, label = scores.max(1, keepdim=True)
        if isinstance(self.head, OBB):
            best = self._separate_oriented(torch.cat([boxes, extras], 1), score[0, 0], label[0, 0])
            corners = boxes
        else:
            classes = torch.arange(self.head.nc).view(1, -1, 1)
            alone = scores * (classes == label)  # of each cell the best class
            best = _NonMaxSuppression.apply(
                boxes.transpose(1, 2), alone, self.max_boxes, self.iou, self.score
            )[:, 2]
            half = boxes[:, 2:] / 2
            corners = torch.cat([boxes[:, :2] - half, boxes[:, :2] + half], 1)
        rows = torch.cat([corners, score, label.to(scores.dtype), extras], 1)
        return self._best_rows(rows[0].T, best)

    def _best_rows(self, rows: Tensor, cells: Tensor) -> Tensor:
        """``max_boxes`` of the ``rows`` (cells, 6 + extras) that ``cells`` (n,) names."""
        missing = torch.zeros(self.max_boxes, dtype=cells.dtype)
        scores = torch.cat([rows[:, 4].index_select(0, cells), missing.to(rows.dtype)])
        order = highest(scores, self.max_boxes)
        cells = torch.cat([cells, missing]).index_select(0, order)
        found = scores.index_select(0, order) > 0
        return (rows.index_select(0, cells) * found[:, None])[None]

    def _separate_oriented(self, boxes: Tensor, score: Tensor, label: Tensor) -> Tensor:
        """Cells whose box (1, 5, cells) no better one of its class overlaps."""
        order = highest(score, len(score))
        boxes = boxes[0].T.index_select(0, order)
        score, label = score.index_select(0, order), label.index_select(0, order)
        rank = torch.arange(len(label))
        better = (rank[:, None] < rank) & (label[:, None] == label)
        overlaps = (batch_probiou(boxes, boxes) > self.iou) & better
        left = (overlaps.sum(0) == 0) & (score > self.score)
        return order.index_select(0, left.nonzero()[:, 0])


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator of that name, and the same in PyTorch.

    Reads boxes (1, cells, 4) as centre and size, scores (1, classes, cells); gives (n, 3): image,
    class, cell.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, boxes: Tensor, scores: Tensor, most: int, iou: float, score: float
    ) -> Tensor:
        """By falling score; the limit ``most`` of a class only saves a runtime some work."""
        label, cell = torch.where(scores[0] > score)
        corners = box_convert(boxes[0], "cxcywh", "xyxy")[cell]
        left = batched_nms(corners, scores[0, label, cell], label, iou)
        return torch.stack([torch.zeros_like(left), label[left], cell[left]], 1)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, most: int, iou: float, score: float) -> Any:
        """The operator in the graph ``g``."""
        limits = [torch.tensor([most]), torch.tensor([iou]), torch.tensor([score])]
        constants = [g.op("Constant", value_t=limit) for limit in limits]
        return g.op("NonMaxSuppression", boxes, scores, *constants, center_point_box_i=1)
