"""From the net's outputs to the objects of the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deploy.arrays import Flags, Floats, Indices
from deploy.detections import Detections, corners
from deploy.letterbox import Letterbox
from deploy.manifest import Postprocessing
from deploy.masks import mask_of
from deploy.suppression import suppress

_MOST = 30000  # candidates that are looked at; there are more only at scores that mean nothing


@dataclass(frozen=True)
class Candidates:
    """Boxes (n, 4) in pixels of the net's input with one score and class each.

    They are x1, y1, x2, y2, of rotated boxes x, y, w, h. ``extras`` (n, extras) as the net gave
    them.
    """

    boxes: Floats
    scores: Floats
    classes: Indices
    extras: Floats

    def take(self, which: Indices | Flags) -> Candidates:
        """Those at these places."""
        return Candidates(
            self.boxes[which], self.scores[which], self.classes[which], self.extras[which]
        )


def candidates_of(output: Floats, settings: Postprocessing) -> Candidates:
    """What of the first output (see ``Postprocessing``) scores above the threshold.

    Of each cell only the best class counts.
    """
    if settings.layout == "boxes":
        rows = output[0]
        found = Candidates(rows[:, :4], rows[:, 4], _whole(rows[:, 5]), rows[:, 6:])
        found = found.take(
            np.isfinite(rows).all(1) & (found.classes >= 0) & (found.classes < settings.classes)
        )
        return found.take(found.scores > settings.score)
    cells = output[0].T
    scores = cells[:, 4 : 4 + settings.classes]
    cells = cells[(scores.max(1) > settings.score) & np.isfinite(cells).all(1)]
    scores, extras = np.split(cells[:, 4:], [settings.classes], axis=1)
    boxes = cells[:, :4] if settings.task == "obb" else _sides(cells[:, :4])
    found = Candidates(boxes, scores.max(1), scores.argmax(1), extras)
    return found.take(np.argsort(-found.scores, kind="stable")[:_MOST])


def without_overlaps(found: Candidates, settings: Postprocessing) -> Candidates:
    """Only the best of boxes that show the same object, at most ``max_boxes``."""
    if settings.layout == "boxes":
        return found.take(np.arange(min(len(found.scores), settings.max_boxes)))
    boxes = found.boxes
    if settings.task == "obb":
        boxes = np.concatenate([boxes, found.extras[:, -1:]], 1)
    return found.take(
        suppress(boxes, found.scores, found.classes, settings.iou, settings.max_boxes)
    )


def in_image(
    found: Candidates, prototypes: Floats | None, place: Letterbox, settings: Postprocessing
) -> Detections:
    """The objects in pixels of the image, cut at its border; ``prototypes`` (masks, h, w)."""
    scores, classes = found.scores, found.classes
    if settings.task == "obb":
        centres = place.to_image(found.boxes[:, :2])
        sizes = place.sizes_to_image(found.boxes[:, 2:])
        rotated = np.concatenate([centres, sizes, found.extras[:, -1:]], 1)
        around = corners(rotated)
        boxes = np.concatenate([around.min(1), around.max(1)], 1)
        return Detections(place.image, boxes, scores, classes, rotated=rotated)
    points = place.clip(place.to_image(found.boxes.reshape(-1, 2, 2)))
    plain = Detections(place.image, points.reshape(-1, 4), scores, classes)
    if settings.task == "pose":
        keypoints = found.extras.reshape(-1, *settings.keypoints).copy()
        keypoints[..., :2] = place.clip(place.to_image(keypoints[..., :2]))
        return replace(plain, keypoints=keypoints)
    if prototypes is not None:
        return _with_masks(plain, prototypes, found.extras, place)
    return plain


def _with_masks(
    plain: Detections, prototypes: Floats, weights: Floats, place: Letterbox
) -> Detections:
    """Objects with at least one pixel."""
    masks = [
        mask_of(prototypes, weights[index], box, place) for index, box in enumerate(plain.boxes)
    ]
    seen = np.array([bool(mask.pixels.any()) for mask in masks], np.bool_)
    return Detections(
        plain.image,
        plain.boxes[seen],
        plain.scores[seen],
        plain.classes[seen],
        masks=tuple(mask for mask in masks if mask.pixels.any()),
    )


def _sides(boxes: Floats) -> Floats:
    """(n, 4) from x, y, w, h to x1, y1, x2, y2."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)


def _whole(values: Floats) -> Indices:
    return np.rint(np.nan_to_num(values, nan=-1)).astype(np.int64)
