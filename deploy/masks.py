"""Masks of objects from the net's prototypes, only inside their boxes, and as JSON."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploy.arrays import Flags, Floats
from deploy.letterbox import Letterbox


@dataclass(frozen=True)
class Mask:
    """Which pixels of an image belong to an object: ``pixels`` (h, w), beginning at left, top."""

    left: int
    top: int
    pixels: Flags

    def full(self, image: tuple[int, int]) -> Flags:
        """The mask of the whole image of size (height, width)."""
        whole = np.zeros(image, np.bool_)
        height, width = self.pixels.shape
        whole[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return whole

    def run_lengths(self, image: tuple[int, int]) -> dict[str, list[int]]:
        """COCO's uncompressed form: runs of zeros and ones in turn, column after column."""
        flat = self.full(image).ravel(order="F")
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        edges = np.concatenate([[0], changes, [len(flat)]])
        counts = [int(count) for count in np.diff(edges)]
        return {"size": list(image), "counts": [0, *counts] if flat[0] else counts}


def mask_of(prototypes: Floats, weights: Floats, box: Floats, place: Letterbox) -> Mask:
    """The mask of one object, at the image's own resolution.

    Args:
        prototypes: (masks, h, w), spread over the net's whole input.
        weights: (masks,), the object's.
        box: (4,) as x1, y1, x2, y2 in pixels of the image; nothing outside belongs to the object.
        place: how the image lies in the net's input.
    """
    left, top, right, bottom = (int(side) for side in np.ceil(box))
    logits = np.tensordot(weights, prototypes, 1)
    corner = np.array([(left, top)], np.float32)
    centres = [np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5]
    places = []
    for axis, cells in ((0, logits.shape[1]), (1, logits.shape[0])):
        points = np.repeat(corner, len(centres[axis]), 0)
        points[:, axis] = centres[axis]
        spacing = place.size[1 - axis] / cells
        places.append(place.to_input(points)[:, axis] / spacing - 0.5)
    columns, rows = places
    return Mask(left, top, _between(_between(logits, rows).T, columns).T > 0)


def _between(values: Floats, places: Floats) -> Floats:
    """Rows of ``values`` (h, w) at fractional ``places`` (n,): (n, w), constant past the ends."""
    places = np.clip(places, 0, len(values) - 1)
    before = np.floor(places).astype(np.int64)
    behind = np.minimum(before + 1, len(values) - 1)
    share = (places - before).astype(np.float32)[:, None]
    return values[before] * (1 - share) + values[behind] * share
