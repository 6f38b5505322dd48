"""Images as the model sees them: square, padded, RGB, in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
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
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return [sorted(images)[index] for index in order]


def image_batches(paths: Sequence[Path], imgsz: int, batch: int = 8) -> list[Tensor]:
    """The images in batches of (N, 3, imgsz, imgsz)."""
    tensors = [load_image(path, imgsz) for path in paths]
    return [torch.cat(tensors[i : i + batch]) for i in range(0, len(tensors), batch)]
