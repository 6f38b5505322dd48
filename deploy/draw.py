"""A picture of what was found, through Pillow."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np

from deploy.arrays import Image
from deploy.detections import Detections, corners
from deploy.errors import DeployError

_TURN = 0.381966  # of the colour circle from one class to the next: the golden angle
_SEEN = 0.5  # visibility from which a keypoint is drawn


def draw(image: Image, found: Detections, labels: tuple[str, ...], file: Path) -> None:
    """Write ``image`` with its objects to ``file``, in the format that its suffix names.

    Raises:
        DeployError: Pillow is missing, or the file cannot be written.
    """
    try:
        from PIL import Image as pillow
        from PIL import ImageDraw
    except ImportError as error:
        raise DeployError(
            "Pillow draws the pictures: pip install pillow, or leave out --out"
        ) from error
    picture = pillow.fromarray(_tinted(image, found))
    pen = ImageDraw.Draw(picture)
    line = max(1, round(sum(image.shape[:2]) / 600))
    for index in reversed(range(len(found))):  # the best on top
        color = color_of(int(found.classes[index]))
        outline = _outline(found, index)
        pen.line([*outline, outline[0]], fill=color, width=line)
        for x, y, *visibility in () if found.keypoints is None else found.keypoints[index]:
            if not visibility or visibility[0] > _SEEN:
                spot = (x - 2 * line, y - 2 * line, x + 2 * line, y + 2 * line)
                pen.ellipse([float(side) for side in spot], fill=color)
        left, top = min(outline, key=lambda point: (point[1], point[0]))
        text = f"{labels[found.classes[index]]} {found.scores[index]:.2f}"
        place = (left, max(0.0, top - 11 - line))
        # Pillow's built-in font knows no letters beyond Latin-1
        text = text.encode("latin-1", "replace").decode("latin-1")
        pen.rectangle(pen.textbbox(place, text), fill=color)
        pen.text(place, text, fill=(0, 0, 0))
    try:
        picture.save(file)
    except (OSError, ValueError) as error:
        raise DeployError(f"'{file}' cannot be written: {error}") from error


def color_of(number: int) -> tuple[int, int, int]:
    """A bright colour, another one for each class."""
    red, green, blue = colorsys.hsv_to_rgb(number * _TURN % 1, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _outline(found: Detections, index: int) -> list[tuple[float, float]]:
    if found.rotated is not None:
        return [(float(x), float(y)) for x, y in corners(found.rotated[index : index + 1])[0]]
    left, top, right, bottom = (float(side) for side in found.boxes[index])
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _tinted(image: Image, found: Detections) -> Image:
    """A copy whose objects' masks are half their class's colour."""
    picture: Image = image.copy()
    for index, mask in reversed(list(enumerate(found.masks or ()))):
        height, width = mask.pixels.shape
        part = picture[mask.top : mask.top + height, mask.left : mask.left + width]
        color = np.array(color_of(int(found.classes[index])), np.uint8)
        part[mask.pixels] = part[mask.pixels] // 2 + color // 2
    return picture
