"""One picture of the drawn data set: background, clutter, objects that may hide one another."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from compress.data.shapes import DISTRACTORS, OBJECTS, Field, Shape

SIDE = 160  # pixels
MIN_VISIBLE = 0.7  # share of an object that is always in sight
SMALLEST, LARGEST = 9.0, 42.0  # radius of an object in pixels
MIN_CONTRAST = 90.0  # distance of a colour from the ground, in levels of 0 to 255
RIM_SHADE = 60.0  # how much darker an outline is, in the same levels
SHAPES = tuple(OBJECTS.values())

Pixels = NDArray[np.float64]
Colour = NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """Where an object is seen, in pixels; ``right`` and ``bottom`` are exclusive."""

    kind: int
    left: int
    top: int
    right: int
    bottom: int


@dataclass
class Scene:
    """A picture in the making. ``owner`` holds the object seen at a pixel, or -1."""

    pixels: Pixels
    owner: NDArray[np.int16]
    kinds: list[int] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)

    def boxes(self) -> list[Box]:
        """The tight box around what is seen of each object."""
        return [self._box(index, kind) for index, kind in enumerate(self.kinds)]

    def _box(self, index: int, kind: int) -> Box:
        rows, columns = np.nonzero(self.owner == index)
        left, right = int(columns.min()), int(columns.max()) + 1
        return Box(kind, left, int(rows.min()), right, int(rows.max()) + 1)

    def place(self, shape: Shape, pose: Pose, paint: Paint, kind: int | None) -> bool:
        """Draw a shape on top; an object when ``kind`` is given.

        Refuses (gives False and draws nothing) where less than ``MIN_VISIBLE`` of it, or of an
        object below it, would be seen. So every object in a picture has a label.
        """
        rows, columns, distance, area = pose.rasterise(shape)
        inside, under = distance < 0, self.owner[rows, columns]
        if kind is not None and inside.sum() < MIN_VISIBLE * area:
            return False
        if any(self._hides(index, under, inside) for index in np.unique(under[inside])):
            return False
        paint.apply(self.pixels[rows, columns], distance)
        under[inside] = len(self.kinds) if kind is not None else -1
        if kind is not None:
            self.kinds.append(kind)
            self.areas.append(area)
        return True

    def _hides(self, index: int, under: NDArray[np.int16], inside: NDArray[np.bool_]) -> bool:
        if index < 0:
            return False
        seen = np.count_nonzero(self.owner == index) - np.count_nonzero(under[inside] == index)
        return bool(seen < MIN_VISIBLE * self.areas[index])


@dataclass(frozen=True)
class Pose:
    """Centre and radius in pixels, angle in radians, ``squeeze`` of the second axis (0 to 1)."""

    x: float
    y: float
    radius: float
    angle: float
    squeeze: float

    def rasterise(self, shape: Shape) -> tuple[slice, slice, Field, int]:
        """Rows and columns inside the picture, distance in pixels there, area with the rest."""
        reach = int(np.ceil(self.radius * 1.2)) + 1
        left, top = int(self.x) - reach, int(self.y) - reach
        grid = np.arange(2 * reach + 1, dtype=np.float64)
        dx, dy = np.meshgrid(grid + left - self.x, grid + top - self.y)
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        u = (dx * cosine + dy * sine) / self.radius
        v = (dy * cosine - dx * sine) / (self.radius * self.squeeze)
        distance = shape(u, v) * self.radius * self.squeeze
        rows = slice(max(top, 0), min(top + len(grid), SIDE))
        columns = slice(max(left, 0), min(left + len(grid), SIDE))
        seen = distance[rows.start - top :, columns.start - left :]
        seen = seen[: rows.stop - rows.start, : columns.stop - columns.start]
        return rows, columns, seen, int(np.count_nonzero(distance < 0))


@dataclass(frozen=True)
class Paint:
    """A colour that shades off along ``slope`` (per pixel), with an outline ``rim`` pixels wide."""

    colour: Colour
    slope: NDArray[np.float64]
    rim: float

    def apply(self, patch: Pixels, distance: Field) -> None:
        """Paint on ``patch`` where ``distance`` (pixels) is below zero, with a soft edge."""
        y, x = np.indices(distance.shape)
        shade = self.slope[0] * x + self.slope[1] * y
        shade = np.where(distance > -self.rim, shade - RIM_SHADE, shade)[..., None]
        cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]
        patch[:] = patch * (1 - cover) + (self.colour + shade) * cover


def draw_scene(rng: Generator) -> tuple[NDArray[np.uint8], list[Box]]:
    """A picture (``SIDE`` x ``SIDE`` x 3, BGR) and the boxes of its objects."""
    ground = rng.uniform(60, 200) + rng.normal(0, 15, 3)
    scene = Scene(_background(rng, ground), np.full((SIDE, SIDE), -1, np.int16))
    palette = _palette(rng, ground)
    for _ in range(rng.integers(2, 6)):
        _place_distractor(rng, scene, palette, LARGEST)
    wanted = int(rng.integers(3, 9))
    for _ in range(wanted * 3):
        if len(scene.kinds) < wanted:
            _place_object(rng, scene, palette)
    for _ in range(rng.integers(2, 6)):
        _place_distractor(rng, scene, palette, LARGEST / 3)
    return _photograph(rng, scene.pixels), scene.boxes()


def _palette(rng: Generator, ground: Colour) -> Pixels:
    """Few colours a picture, shared by objects and distractors, all apart from the ground."""
    colours = rng.uniform(20, 235, (64, 3))
    apart = np.linalg.norm(colours - ground, axis=1) > MIN_CONTRAST
    chosen: Pixels = colours[apart][:4]
    return chosen


def _place_object(rng: Generator, scene: Scene, palette: Pixels) -> None:
    kind = int(rng.integers(len(SHAPES)))
    scene.place(SHAPES[kind], _pose(rng, SMALLEST, LARGEST), _paint(rng, palette), kind)


def _place_distractor(rng: Generator, scene: Scene, palette: Pixels, largest: float) -> None:
    shape = DISTRACTORS[rng.integers(len(DISTRACTORS))]
    scene.place(shape, _pose(rng, SMALLEST / 2, largest), _paint(rng, palette), None)


def _pose(rng: Generator, smallest: float, largest: float) -> Pose:
    x, y = rng.uniform(0, SIDE, 2)
    radius = float(np.exp(rng.uniform(np.log(smallest), np.log(largest))))
    return Pose(x, y, radius, rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.0))


def _paint(rng: Generator, palette: Pixels) -> Paint:
    colour = palette[rng.integers(len(palette))] + rng.normal(0, 12, 3)
    rim = float(rng.choice([0.0, 0.0, 1.5]))
    return Paint(colour, rng.normal(0, 0.5, 2), rim)


def _background(rng: Generator, ground: Colour) -> Pixels:
    """A gradient, smooth texture at three scales, and thin lines."""
    x, y = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    slope: Pixels = rng.normal(0, 18, (2, 3))
    pixels: Pixels = ground + x[..., None] * slope[0] + y[..., None] * slope[1]
    for cells, strength in ((3, 16.0), (9, 12.0), (30, 8.0)):
        pixels += _texture(rng, cells) * rng.uniform(0, strength)
    for _ in range(rng.integers(0, 6)):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-1, 1)
        line = np.abs(x * np.cos(angle) + y * np.sin(angle) - offset) < rng.uniform(0.005, 0.03)
        pixels[line] += rng.normal(0, 40, 3)
    return pixels


def _texture(rng: Generator, cells: int) -> Pixels:
    """Smooth noise of ``cells`` x ``cells`` knots, standard deviation about 1, one channel."""
    knots = rng.normal(0, 1, (cells + 1, cells + 1))
    place = np.linspace(0, cells, SIDE, endpoint=False)
    low, share = place.astype(int), place % 1
    rows = knots[low] * (1 - share)[:, None] + knots[low + 1] * share[:, None]
    smooth: Pixels = (rows[:, low] * (1 - share) + rows[:, low + 1] * share)[..., None]
    return smooth


def _photograph(rng: Generator, pixels: Pixels) -> NDArray[np.uint8]:
    """What a cheap camera makes of it: less contrast, blur, noise."""
    contrast, light = rng.uniform(0.7, 1.1), rng.normal(0, 12)
    exposed = (pixels - 127) * contrast + 127 + light
    blurred = _blur(exposed, float(rng.choice([0.0, 0.5, 1.0])))
    noisy = blurred + rng.normal(0, rng.uniform(2, 8), pixels.shape)
    levels: NDArray[np.uint8] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return levels


def _blur(pixels: Pixels, weight: float) -> Pixels:
    """A 3 x 3 blur; ``weight`` is that of a neighbour against 2 for the centre."""
    place = np.arange(SIDE)
    for axis in (0, 1):
        before = pixels.take(np.maximum(place - 1, 0), axis)
        after = pixels.take(np.minimum(place + 1, SIDE - 1), axis)
        pixels = (2 * pixels + weight * (before + after)) / (2 + 2 * weight)
    return pixels
