"""Whether the images of a data set can be read, before hours are spent on the others."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path

from compress.data.dataset import SHOWN_FAULTS, DataSet
from compress.data.memo import look_up
from compress.errors import CompressError

LEAST_SIDE = 10  # pixels, as in ultralytics
_SOUND = "sound"
_JPEG_END = b"\xff\xd9"


def can_check_images() -> bool:
    """Whether the library that opens images is installed."""
    return find_spec("PIL") is not None


def check_images(dataset: DataSet, memo: Path) -> None:
    """Open every image and report all that cannot be read, at once.

    Of a format with checksums (PNG) all bytes are checked, of others the header and the end.
    ``memo`` is a file that remembers sound images, so that the next call opens only new ones.

    Raises:
        CompressError: with the number of faulty images and the first ones as ``file: fault``.
    """
    images = sorted({image for files in dataset.splits.values() for image in files})
    found = look_up(images, memo, lambda image: None if image_fault(image) else _SOUND)
    faults = [f"{image}: {image_fault(image)}" for image in images if found[image] is None]
    if not faults:
        return
    rest = len(faults) - SHOWN_FAULTS
    lines = [f"{dataset.yaml}: {len(faults)} unreadable images", *faults[:SHOWN_FAULTS]]
    lines += [f"and {rest} more"] if rest > 0 else []
    text = "\n  ".join(lines)
    raise CompressError(f"{text}\nReplace these files, or delete them and their labels")


def image_fault(image: Path) -> str:
    """What is wrong with one image file; empty if nothing is."""
    from PIL import Image

    if image.suffix.lower() not in Image.registered_extensions():
        return ""  # a format that only a plug-in reads
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd metadata
            with Image.open(image) as picture:
                sides, kind = picture.size, picture.format
                picture.verify()
            if kind in ("JPEG", "MPO") and not _ends(image):
                with Image.open(image) as picture:
                    picture.load()  # only bytes behind its end, or cut off?
    except Exception as error:  # damaged bytes end in a dozen kinds of errors
        return _reason(error)
    if min(sides) < LEAST_SIDE:
        return f"{sides[0]} x {sides[1]} pixels; the least side is {LEAST_SIDE}"
    return ""


def _ends(image: Path) -> bool:
    with image.open("rb") as stream:
        stream.seek(-len(_JPEG_END), os.SEEK_END)
        return stream.read() == _JPEG_END


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    # once imported, ultralytics makes Pillow try a plug-in on what it cannot identify
    if "cannot identify" in str(error) or isinstance(error, ImportError):
        return "not an image"
    return f"damaged: {error}"
