"""Images as the model sees them: square, padded, RGB, in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics.data.augment import LetterBox

from compress.errors import CompressError


def load_image(path: Path, imgsz: int) -> Tensor:
    """One image, letterboxed to a square of ``imgsz`` pixels: (1, 3, imgsz, imgsz) in [0, 1].

    Raises:
        CompressError: if the file is no readable image.
    """
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise CompressError(f"{path}: not a readable image. Remove it from the data set.")
    boxed = LetterBox((imgsz, imgsz), auto=False)(image=image)
    rgb = np.ascontiguousarray(boxed[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb)[None].float() / 255


def pick(images: Sequence[Path], count: int, seed: int) -> list[Path]:
    """``count`` of the images (all, if there are fewer), the same for the same ``seed``."""
    ordered = sorted(images)
    chosen = np.random.default_rng(seed).permutation(len(ordered))[:count]
    return [ordered[index] for index in chosen]


@dataclass(frozen=True)
class ImageBatches:
    """Images in batches of (N, 3, imgsz, imgsz), read anew on each pass: few are in memory."""

    paths: tuple[Path, ...]
    imgsz: int
    batch: int = 8

    def __iter__(self) -> Iterator[Tensor]:
        """The batches, the last one perhaps smaller."""
        for start in range(0, len(self.paths), self.batch):
            part = self.paths[start : start + self.batch]
            yield torch.cat([load_image(path, self.imgsz) for path in part])
