"""What a head predicts for every cell, before decoding, in one shape for all families and modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.inspect import detect_head

_EXTRAS = {
    "mask_coefficient": "masks",
    "proto": "prototypes",
    "kpts": "keypoints",
    "angle": "angle",
}


@dataclass(frozen=True)
class RawOutputs:
    """Raw predictions of N images in A cells for K classes.

    ``scores``: (N, K, A) class logits. ``boxes``: (N, 4 * bins, A), logits over ``bins`` distances
    of left, top, right, bottom; with one bin the distances themselves, in strides. ``points``:
    (A, 2) centres x, y in strides. ``strides``: (A,) in pixels. ``extras``, where the task has
    them: ``masks`` (N, 32, A), ``prototypes`` (N, 32, H, W), ``keypoints`` (N, k * values, A),
    ``angle`` (N, 1, A).
    """

    scores: Tensor
    boxes: Tensor
    bins: int
    points: Tensor
    strides: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def logits(self) -> Tensor:
        """Box logits as (N, 4, bins, A)."""
        count, _, cells = self.boxes.shape
        return self.boxes.reshape(count, 4, self.bins, cells)

    def distances(self) -> Tensor:
        """Expected distances to left, top, right, bottom in strides, (N, 4, A), in float32."""
        logits = self.logits().float()
        if self.bins == 1:
            return logits[:, :, 0]
        bins = torch.arange(self.bins, dtype=torch.float32, device=logits.device)
        return (logits.softmax(2) * bins.view(1, 1, -1, 1)).sum(2)

    def corners(self) -> Tensor:
        """Boxes as x1, y1, x2, y2 in pixels, (N, 4, A), in float32."""
        left_top, right_bottom = self.distances().chunk(2, 1)
        points = self.points.float().T
        return torch.cat([points - left_top, points + right_bottom], 1) * self.strides.float()

    def confidence(self) -> Tensor:
        """The highest class probability of each cell, (N, A), in float32, without gradient."""
        return self.scores.detach().float().sigmoid().amax(1)

    def at(self, cells: Tensor) -> RawOutputs:
        """Only the cells where ``cells`` (A,) is true; prototypes stay."""
        extras = {k: v if k == "prototypes" else v[..., cells] for k, v in self.extras.items()}
        return replace(
            self,
            scores=self.scores[..., cells],
            boxes=self.boxes[..., cells],
            points=self.points[cells],
            strides=self.strides[cells],
            extras=extras,
        )

    def of_classes(self, index: Tensor) -> RawOutputs:
        """Only these classes, in this order; ``index`` is (K',)."""
        return replace(self, scores=self.scores[:, index])

    def detached(self) -> RawOutputs:
        """The same values without gradients."""
        return replace(
            self,
            scores=self.scores.detach(),
            boxes=self.boxes.detach(),
            extras={k: v.detach() for k, v in self.extras.items()},
        )


def raw_outputs(model: nn.Module, predictions: Any) -> RawOutputs:
    """Read what ``model`` returned, in training or in eval mode.

    Of an end-to-end head the one-to-many branch: the one whose gradient reaches the backbone.
    """
    head = detect_head(model)
    found = raw_dict(predictions)
    points, strides = _cells(found["feats"], head.stride)
    extras = {}
    for theirs, ours in _EXTRAS.items():
        value = found.get(theirs)
        value = value[0] if isinstance(value, tuple) else value  # YOLO26 adds semantic classes
        if isinstance(value, Tensor):
            extras[ours] = value
    return RawOutputs(found["scores"], found["boxes"], head.reg_max, points, strides, extras)


def raw_dict(predictions: Any) -> Mapping[str, Any]:
    """The head's own dictionary inside what a model returned."""
    found = predictions[-1] if isinstance(predictions, tuple) else predictions
    # a fused end-to-end head has only the branch that needs no suppression
    return dict(found.get("one2many") or found.get("one2one") or found)


def first_images(predictions: Any, count: int) -> Any:
    """The part of raw predictions (nested dictionaries and lists) that is of the first images."""
    if isinstance(predictions, Tensor):
        return predictions[:count]
    if isinstance(predictions, Mapping):
        return {key: first_images(value, count) for key, value in predictions.items()}
    if isinstance(predictions, (list, tuple)):
        return type(predictions)(first_images(value, count) for value in predictions)
    return predictions


def _cells(features: list[Tensor], level_strides: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of all cells in strides, (A, 2), and the stride of each, (A,)."""
    points, strides = [], []
    for feature, stride in zip(features, level_strides, strict=True):
        height, width = feature.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(height, device=feature.device) + 0.5,
            torch.arange(width, device=feature.device) + 0.5,
            indexing="ij",
        )
        points.append(torch.stack([x.flatten(), y.flatten()], 1))
        strides.append(stride.to(feature.device).expand(height * width))
    return torch.cat(points), torch.cat(strides)
