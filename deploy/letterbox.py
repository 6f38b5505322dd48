"""An image of any size as the net takes it, and coordinates back to the image.

The arithmetic is that of OpenCV's 8-bit bilinear resize, which the net saw in training: weights of
11 bits, sums cut to integers. The pixels are therefore the same, not only close.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploy.arrays import Floats, Image, Indices

_ONE = 2048  # a weight of 1


@dataclass(frozen=True)
class Letterbox:
    """How an image lies in the net's input; sizes are (height, width) in pixels.

    ``left`` and ``top`` are the border before the scaled image.
    """

    image: tuple[int, int]
    scaled: tuple[int, int]
    size: tuple[int, int]
    left: int
    top: int

    @classmethod
    def fit(cls, image: tuple[int, int], size: tuple[int, int]) -> Letterbox:
        """An ``image`` in the middle of ``size``, its sides in the same proportion.

        Odd borders give the pixel to the right and the bottom; no side shrinks below one pixel.
        """
        gain = min(size[0] / image[0], size[1] / image[1])
        height, width = max(round(image[0] * gain), 1), max(round(image[1] * gain), 1)
        left = round((size[1] - width) / 2 - 0.1)
        top = round((size[0] - height) / 2 - 0.1)
        return cls(image, (height, width), size, left, top)

    def apply(self, image: Image, pad: int) -> Image:
        """``image`` (H, W, 3) scaled, with a border of colour ``pad``: (height, width, 3)."""
        canvas = np.full((*self.size, 3), pad, np.uint8)
        height, width = self.scaled
        bottom, right = self.top + height, self.left + width
        canvas[self.top : bottom, self.left : right] = resize(image, height, width)
        return canvas

    def to_image(self, points: Floats) -> Floats:
        """Points (..., 2) of the net's input as points of the image; may lie outside."""
        return (points - self._border) / self._gain

    def sizes_to_image(self, sizes: Floats) -> Floats:
        """Widths and heights (..., 2) in pixels of the image."""
        return sizes / self._gain

    def to_input(self, points: Floats) -> Floats:
        """The reverse of ``to_image``."""
        return points * self._gain + self._border

    def clip(self, points: Floats) -> Floats:
        """Points (..., 2) of the image, those outside moved to its border."""
        return np.clip(points, 0, np.array(self.image[::-1], np.float32))

    @property
    def _gain(self) -> Floats:
        height, width = self.scaled
        return np.array((width / self.image[1], height / self.image[0]), np.float32)

    @property
    def _border(self) -> Floats:
        return np.array((self.left, self.top), np.float32)


def resize(image: Image, height: int, width: int) -> Image:
    """``image`` (H, W, 3) at another size, bilinear."""
    if image.shape[:2] == (height, width):
        return image
    last_row, last_column = image.shape[0] - 1, image.shape[1] - 1
    rows, down = _places(image.shape[0], height)
    columns, across = _places(image.shape[1], width)
    across = np.where((columns < 0) | (columns >= last_column), np.float32(0), across)
    columns = columns.clip(0, last_column)
    near, far = _weights(across)
    # rows that two neighbours share are scaled once
    pairs = np.stack([rows, rows + 1]).clip(0, last_row)
    used, place = np.unique(pairs, return_inverse=True)
    place = place.reshape(pairs.shape)
    source = image[used]
    lines = np.take(source, columns, 1) * near[:, None]
    lines += np.take(source, np.minimum(columns + 1, last_column), 1) * far[:, None]
    lines >>= 4
    upper, lower = _weights(down)
    total = _weighted(lines[place[0]], upper) + _weighted(lines[place[1]], lower)
    return np.asarray((total + 2) >> 2, np.uint8)


def _weighted(lines: Indices, weights: Indices) -> Indices:
    """``lines`` (h, w, 3) each times its weight, in place."""
    lines *= weights[:, None, None]
    lines >>= 16
    return lines


def _places(source: int, target: int) -> tuple[Indices, Floats]:
    """For each target pixel the source pixel before its centre, and how far behind it lies."""
    centre = ((np.arange(target) + 0.5) * (1 / (target / source)) - 0.5).astype(np.float32)
    before = np.floor(centre)
    return before.astype(np.int64), centre - before


def _weights(share: Floats) -> tuple[Indices, Indices]:
    """Integer weights of the pixel before and the pixel behind."""
    near, far = (1 - share) * _ONE, share * _ONE
    return np.rint(near).astype(np.int32), np.rint(far).astype(np.int32)
