"""Suppression and decoding keep what ultralytics keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils.metrics import batch_probiou
from ultralytics.utils.nms import non_max_suppression

from deploy.decode import candidates_of, without_overlaps
from deploy.manifest import Postprocessing
from deploy.suppression import iou, probiou, suppress

CLASSES = 3


def cells(seed: int, count: int, extras: int) -> np.ndarray:
    """Crowded boxes with scores, as a head gives them: (1, 4 + classes + extras, count)."""
    random = np.random.default_rng(seed)
    centres = random.choice(random.uniform(50, 590, (6, 2)), count) + random.normal(
        0, 6, (count, 2)
    )
    sizes = random.uniform(20, 90, (count, 2))
    scores = random.random((count, CLASSES)) ** 2
    rest = random.uniform(-1.5, 1.5, (count, extras))
    return np.concatenate([centres, sizes, scores, rest], 1).T[None].astype(np.float32)


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(7, 120),  # ultralytics takes six cells for an end-to-end output
    st.sampled_from(["detect", "segment", "obb"]),
    st.sampled_from([0.0, 0.25, 0.6]),
    st.sampled_from([0.3, 0.5, 0.7]),
    st.sampled_from([5, 300]),
)
def test_what_stays_is_what_ultralytics_keeps(
    seed: int, count: int, task: str, score: float, limit: float, most: int
) -> None:
    extras = {"detect": 0, "segment": 4, "obb": 1}[task]
    masks = extras if task == "segment" else 0
    settings = Postprocessing(task, "cells", CLASSES, score, limit, most, masks)
    output = cells(seed, count, extras)
    expected = non_max_suppression(
        torch.tensor(output), score, limit, max_det=most, nc=CLASSES, rotated=task == "obb"
    )[0].numpy()
    found = without_overlaps(candidates_of(output, settings), settings)
    actual = np.concatenate(
        [found.boxes, found.scores[:, None], found.classes[:, None], found.extras], 1
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-4)


@given(st.integers(0, 10**6))
def test_rotated_overlap_is_that_of_ultralytics(seed: int) -> None:
    random = np.random.default_rng(seed)
    boxes = np.concatenate(
        [
            random.uniform(0, 60, (12, 2)),
            random.uniform(2, 80, (12, 2)),
            random.normal(0, 2, (12, 1)),
        ],
        1,
    ).astype(np.float32)
    expected = batch_probiou(torch.tensor(boxes[:5]), torch.tensor(boxes)).numpy()
    np.testing.assert_allclose(probiou(boxes[:5], boxes), expected, atol=2e-3)


@pytest.mark.parametrize("width", [4, 5])
def test_many_rotated_boxes_are_compared_across_blocks(width: int) -> None:
    """More boxes than one block: all lie on the first one, so it alone stays."""
    boxes = np.tile(np.array([[50, 50, 90, 70, 0.3]], np.float32), (700, 1))[:, :width]
    scores = np.linspace(0.9, 0.1, 700, dtype=np.float32)
    kept = suppress(boxes, scores, np.zeros(700, np.int64), 0.5, 300)
    assert kept.tolist() == [0]


def test_classes_do_not_suppress_each_other_and_empty_boxes_touch_nothing() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [5, 5, 5, 5]], np.float32)
    scores = np.array([0.5, 0.9, 0.4], np.float32)
    assert suppress(boxes, scores, np.array([0, 1, 0]), 0.5, 9).tolist() == [1, 0, 2]
    assert iou(boxes[2], boxes[2:]).tolist() == [0.0]


def test_rows_of_a_head_with_suppression_inside_are_only_filtered() -> None:
    rows = np.array(
        [[1, 1, 5, 5, 0.9, 1], [1, 1, 5, 5, 0.8, 1], [2, 2, 6, 6, 0.2, 0], [0, 0, 1, 1, 0.7, -1]],
        np.float32,
    )[None]
    settings = Postprocessing("detect", "boxes", CLASSES, 0.25, 0.5, 9)
    found = without_overlaps(candidates_of(rows, settings), settings)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_numbers_that_are_none_are_no_objects() -> None:
    output = np.full((1, 4 + CLASSES, 9), np.nan, np.float32)
    settings = Postprocessing("detect", "cells", CLASSES, 0.0, 0.5, 9)
    assert len(candidates_of(output, settings).scores) == 0
