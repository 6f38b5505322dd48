"""A teacher's detections, taken as labels of images that have none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from compress.models.raw_outputs import RawOutputs

Found = tuple[Tensor, Tensor, Tensor]
_CANDIDATES = 10  # boxes that non-maximum suppression looks at, for each that may remain
_LEAST_SIDE = 1.0  # pixels


@torch.no_grad()
def pseudo_labels(
    teacher: RawOutputs, size: tuple[int, int], confidence: float, iou: float, most: int = 300
) -> Found:
    """Detections as image index (M,), class (M, 1) and box (M, 4).

    Boxes are centre x, y, width, height as shares of the image, whose ``size`` is height and width
    in pixels. Of cells whose best class is above ``confidence``, what overlaps a better box of its
    class by more than ``iou`` is dropped, as is what is narrower than a pixel inside the image;
    ``most`` an image remain. Sorted by image, then from the most certain on.
    """
    scores, classes = teacher.scores.float().sigmoid().max(1)
    best, cells = scores.topk(min(scores.shape[1], _CANDIDATES * most), dim=1)
    corners = _clipped(teacher.corners(), size).transpose(1, 2)
    corners = corners.gather(1, cells[..., None].expand(-1, -1, 4))
    classes = classes.gather(1, cells)
    sides = corners[..., 2:] - corners[..., :2]
    image, place = torch.where((best > confidence) & (sides >= _LEAST_SIDE).all(-1))
    boxes, chosen, certain = corners[image, place], classes[image, place], best[image, place]
    kept = batched_nms(boxes, certain, image * teacher.scores.shape[1] + chosen, iou)
    kept = kept[image[kept].argsort(stable=True)]  # they come from the most certain on
    kept = kept[_rank(image[kept], len(scores)) < most]
    return image[kept], chosen[kept, None], _shares(boxes[kept], size)


def with_pseudo_labels(batch: dict[str, Any], labelled: int, found: Found) -> dict[str, Any]:
    """A copy of a detection batch in which images from ``labelled`` on have the found boxes.

    Indices of ``found`` count over all images of the batch; what it says of the first
    ``labelled`` ones, which have labels, is left out.
    """
    own = found[0] >= labelled
    keys = ("batch_idx", "cls", "bboxes")
    added = {
        key: torch.cat([batch[key], values[own].to(batch[key])])
        for key, values in zip(keys, found, strict=True)
    }
    return {**batch, **added}


def _clipped(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Corners (N, 4, A) inside the image."""
    height, width = size
    limits = torch.tensor([width, height, width, height], device=corners.device).view(1, 4, 1)
    return corners.clamp_min(0).minimum(limits)


def _rank(image: Tensor, count: int) -> Tensor:
    """The place of each entry among those of its image, from 0; ``image`` (M,) is sorted."""
    sizes = torch.bincount(image, minlength=count)
    starts = sizes.cumsum(0) - sizes
    return torch.arange(len(image), device=image.device) - starts[image]


def _shares(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Corners (M, 4) in pixels as centre, width and height, in shares of the image."""
    height, width = size
    low, high = (corners / corners.new_tensor([width, height, width, height])).chunk(2, 1)
    return torch.cat([(low + high) / 2, high - low], 1)
