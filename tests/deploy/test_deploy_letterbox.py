"""Pixels and coordinates: the same as ultralytics', for any size."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.data.augment import LetterBox
from ultralytics.utils import ops

from deploy.letterbox import Letterbox, resize

SIDES = st.integers(1, 300)
SIZES = st.tuples(st.integers(1, 8), st.integers(1, 8)).map(lambda s: (32 * s[0], 32 * s[1]))


def noise(height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(height * 1000 + width)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=150)
@given(SIDES, SIDES, SIZES)
def test_pixels_are_those_of_ultralytics(height: int, width: int, size: tuple[int, int]) -> None:
    image = noise(height, width)
    expected = LetterBox(size, auto=False)(image=image)
    actual = Letterbox.fit((height, width), size).apply(image, 114)
    assert (actual == expected).all()


@given(SIDES, SIDES, st.sampled_from([0, 255]))
def test_an_even_image_stays_even(height: int, width: int, value: int) -> None:
    image = np.full((height, width, 3), value, np.uint8)
    assert (resize(image, 64, 48) == value).all()


def test_halving_is_the_mean_of_four() -> None:
    image = noise(64, 80)
    assert (resize(image, 32, 40) == cv2.resize(image, (40, 32))).all()


@given(SIDES, SIDES, SIZES)
def test_boxes_go_back_as_in_ultralytics(height: int, width: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    boxes = random.uniform(-20, 300, (8, 4)).astype(np.float32)
    place = Letterbox.fit((height, width), size)
    expected = ops.scale_boxes(size, torch.tensor(boxes), (height, width)).numpy()
    actual = place.clip(place.to_image(boxes.reshape(-1, 2, 2))).reshape(-1, 4)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-3)


@given(SIDES, SIDES, SIZES)
def test_there_and_back_is_the_same_point(height: int, width: int, size: tuple[int, int]) -> None:
    place = Letterbox.fit((height, width), size)
    points = np.random.default_rng(1).uniform(0, 300, (5, 2)).astype(np.float32)
    np.testing.assert_allclose(place.to_image(place.to_input(points)), points, rtol=1e-3, atol=0.05)
