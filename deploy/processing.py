"""What happens before and behind the net, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy.arrays import Floats, Image
from deploy.errors import DeployError
from deploy.letterbox import Letterbox
from deploy.manifest import Postprocessing, Preprocessing


def input_of(image: Image, settings: Preprocessing) -> tuple[Floats, Letterbox]:
    """The net's input (1, 3, height, width), and how ``image`` (H, W, 3), RGB, lies in it."""
    place = Letterbox.fit(image.shape[:2], (settings.height, settings.width))
    pixels = place.apply(image, settings.pad).transpose(2, 0, 1)[None]
    # a division gives the very numbers that training saw, a product with 1 / 255 does not
    return np.divide(pixels, np.float32(1 / settings.scale), order="C"), place


def read_outputs(
    outputs: Sequence[Any], settings: Postprocessing, name: str
) -> tuple[Floats, Floats | None]:
    """The first output, and mask prototypes (masks, h, w) where the task has them.

    Args:
        outputs: arrays as the net ``name`` gave them.
        settings: what they hold.
        name: of the file, for the error.

    Raises:
        DeployError: they are of other shapes than ``settings`` say.
    """
    arrays = [np.asarray(output, np.float32) for output in outputs]
    first, prototypes = arrays[0], None
    if settings.masks:
        prototypes = next((array[0] for array in arrays if array.ndim == 4), None)
    whole = settings.layout == "boxes"
    expected = (6 if whole else 4 + settings.classes) + settings.extras
    width = first.shape[2 if whole else 1] if first.ndim == 3 else 0
    masks = 0 if prototypes is None else len(prototypes)
    if width != expected or masks != settings.masks:
        raise DeployError(
            f"'{name}' gives {list(first.shape)}, where the manifest says {expected} numbers a box "
            f"and {settings.masks} masks. Make the bundle again"
        )
    return first, prototypes
