"""Images as arrays: ``.npy``, PPM and BMP without a library, all others through Pillow."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from deploy.arrays import Image
from deploy.errors import DeployError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".npy", ".png", ".ppm", ".tif", ".tiff", ".webp")


def find_images(source: Path) -> list[Path]:
    """``source`` if it is a file, else the images right inside the folder, by name.

    Raises:
        DeployError: it is not there, or a folder without an image.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DeployError(f"'{source}' does not exist. Name an image or a folder of images")
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DeployError(f"'{source}' holds no image ({', '.join(SUFFIXES)})")
    return files


def read_image(file: Path) -> Image:
    """The pixels of ``file`` (H, W, 3), turned as its Exif data say.

    Raises:
        DeployError: it cannot be read as an image.
    """
    reader = {".npy": _read_npy, ".ppm": _read_ppm, ".bmp": _read_bmp}.get(file.suffix.lower())
    try:
        image = _read_with_pillow(file) if reader is None else reader(file)
    except (OSError, ValueError, struct.error) as error:
        raise DeployError(f"'{file}' cannot be read as an image: {error}") from error
    if min(image.shape) < 1:
        raise DeployError(f"'{file}' is an image without pixels")
    return np.ascontiguousarray(image)


def _read_npy(file: Path) -> Image:
    array = np.load(file, allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"its shape is {getattr(array, 'shape', None)}, not (height, width, 3)")
    if array.dtype != np.uint8:
        raise ValueError(f"its values are {array.dtype}, not uint8")
    return array


def _read_ppm(file: Path) -> Image:
    """Binary PPM of 8 bits."""
    content = file.read_bytes()
    space = rb"(?:\s|#[^\n]*\n)+"
    header = re.match(rb"P6" + (space + rb"(\d{1,9})") * 3 + rb"\s", content)
    if header is None or int(header[3]) != 255:
        raise ValueError("it is no binary PPM (P6) of 8 bits")
    width, height = int(header[1]), int(header[2])
    return _pixels(content, header.end(), height, width * 3).reshape(height, width, 3)


def _read_bmp(file: Path) -> Image:
    """Uncompressed BMP of 24 or 32 bits; other kinds through Pillow."""
    content = file.read_bytes()
    if content[:2] != b"BM":
        raise ValueError("it does not begin as a BMP file")
    (start,) = struct.unpack_from("<I", content, 10)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    if bits not in (24, 32) or compression or width < 1:
        return _read_with_pillow(file)
    row = -(-width * bits // 32) * 4  # rows end on a multiple of four bytes
    lines = _pixels(content, start, abs(height), row)[:, : width * bits // 8]
    image = lines.reshape(abs(height), width, bits // 8)[:, :, 2::-1]
    return image[::-1] if height > 0 else image  # a positive height counts from the bottom


def _pixels(content: bytes, start: int, height: int, row: int) -> Image:
    if len(content) - start < height * row:
        raise ValueError("it is cut off")
    return np.frombuffer(content, np.uint8, height * row, start).reshape(height, row)


def _read_with_pillow(file: Path) -> Image:
    try:
        from PIL import Image as pillow
        from PIL import ImageOps
    except ImportError as error:
        raise DeployError(
            f"'{file}' needs Pillow to be read: pip install pillow, or give .npy, .ppm or .bmp"
        ) from error
    try:
        with pillow.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (SyntaxError, pillow.DecompressionBombError) as error:  # Pillow's word for damage
        raise ValueError(str(error)) from error
