"""Pseudo labels: boxes by hand, against a slow reference, and a batch that carries them."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st
from small_nets import IMGSZ
from torch import Tensor, nn

from compress.distill.pseudo_labels import pseudo_labels, with_pseudo_labels
from compress.models.raw_outputs import RawOutputs, raw_outputs

SIZE = (32, 64)  # height, width
Box = tuple[float, float, float, float]


def said(*images: list[tuple[int, float, Box]], classes: int = 2) -> RawOutputs:
    """Each image's cells as (class, probability, x1 y1 x2 y2 in pixels); the rest says nothing."""
    cells = max(len(image) for image in images)
    scores = torch.full((len(images), classes, cells), -20.0)
    boxes = torch.zeros(len(images), 4, cells)
    for number, image in enumerate(images):
        for cell, (kind, probability, (x1, y1, x2, y2)) in enumerate(image):
            scores[number, kind, cell] = math.log(probability / (1 - probability))
            # one bin: distances from a point, here the image's corner, in strides of 8
            boxes[number, :, cell] = torch.tensor([-x1, -y1, x2, y2]) / 8
    return RawOutputs(scores, boxes, 1, torch.zeros(cells, 2), torch.full((cells,), 8.0))


def test_boxes_by_hand() -> None:
    teacher = said(
        [(0, 0.9, (8, 8, 24, 16))],
        [(1, 0.6, (0, 0, 64, 32)), (0, 0.8, (32, 16, 64, 32))],
    )
    image, kind, box = pseudo_labels(teacher, SIZE, 0.5, 0.6)
    assert image.tolist() == [0, 1, 1]
    assert kind.tolist() == [[0], [0], [1]]
    expected = [[0.25, 0.375, 0.25, 0.25], [0.75, 0.75, 0.5, 0.5], [0.5, 0.5, 1, 1]]
    assert torch.allclose(box, torch.tensor(expected))


def test_the_unsure_are_left_out() -> None:
    teacher = said([(0, 0.49, (0, 0, 16, 16)), (1, 0.51, (0, 0, 16, 16))])
    assert pseudo_labels(teacher, SIZE, 0.5, 0.6)[1].tolist() == [[1]]


def test_of_overlapping_boxes_of_a_class_the_best_stays() -> None:
    left, shifted = (0.0, 0.0, 20.0, 20.0), (2.0, 0.0, 22.0, 20.0)  # IoU 18 / 22
    crowd = [(0, 0.7, left), (0, 0.9, shifted), (1, 0.6, left)]
    image, kind, box = pseudo_labels(said(crowd, crowd[:1]), SIZE, 0.5, 0.8)
    assert image.tolist() == [0, 0, 1]  # another image's box is no rival
    assert kind.tolist() == [[0], [1], [0]]
    assert torch.allclose(box[0], torch.tensor([12 / 64, 10 / 32, 20 / 64, 20 / 32]))
    assert len(pseudo_labels(said(crowd), SIZE, 0.5, 0.83)[0]) == 3


def test_boxes_are_clipped_and_what_is_left_of_nothing_is_dropped() -> None:
    teacher = said(
        [
            (0, 0.9, (-16, -16, 16, 16)),
            (0, 0.9, (48, 16, 100, 100)),
            (0, 0.9, (70, 0, 90, 20)),  # outside
            (0, 0.9, (10, 10, 10, 20)),  # no width
            (0, 0.9, (30, 20, 20, 10)),  # inside out
        ]
    )
    _, _, box = pseudo_labels(teacher, SIZE, 0.5, 0.6)
    expected = [[8 / 64, 8 / 32, 16 / 64, 16 / 32], [56 / 64, 24 / 32, 16 / 64, 16 / 32]]
    assert sorted(box.tolist()) == expected


def test_the_most_certain_remain() -> None:
    boxes = [(4.0 * i, 0.0, 4.0 * i + 3, 3.0) for i in range(6)]
    probabilities = (0.6, 0.9, 0.7, 0.95, 0.8, 0.65)
    crowd = [(0, p, box) for p, box in zip(probabilities, boxes, strict=True)]
    image, _, box = pseudo_labels(said(crowd, crowd[:1]), SIZE, 0.5, 0.6, most=3)
    assert image.tolist() == [0, 0, 0, 1]
    assert torch.allclose(box[:3, 0] * 64, torch.tensor([13.5, 5.5, 17.5]))


def test_no_detection_is_no_label() -> None:
    image, kind, box = pseudo_labels(said([(0, 0.1, (0, 0, 9, 9))]), SIZE, 0.5, 0.6)
    assert (tuple(image.shape), tuple(kind.shape), tuple(box.shape)) == ((0,), (0, 1), (0, 4))


def slow(teacher: RawOutputs, confidence: float, iou: float) -> set[tuple[int, int, int]]:
    """(image, class, cell) of what non-maximum suppression keeps, one box at a time."""
    kept: list[tuple[int, int, int]] = []
    corners = teacher.corners()
    limits = torch.tensor([SIZE[1], SIZE[0]] * 2)
    for image in range(len(corners)):
        best, kinds = teacher.scores[image].sigmoid().max(0)
        for cell in best.argsort(descending=True).tolist():
            box = corners[image, :, cell].clamp_min(0).minimum(limits)
            if best[cell] <= confidence or (box[2:] - box[:2]).min() < 1:
                continue
            kind = int(kinds[cell])
            rivals = [c for i, k, c in kept if (i, k) == (image, kind)]
            others = [corners[image, :, c].clamp_min(0).minimum(limits) for c in rivals]
            if all(overlap(box, other) <= iou for other in others):
                kept.append((image, kind, cell))
    return set(kept)


def overlap(one: Tensor, other: Tensor) -> float:
    common = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp_min(0)
    areas = [float((box[2:] - box[:2]).prod()) for box in (one, other)]
    shared = float(common.prod())
    return shared / (sum(areas) - shared)


@given(seed=st.integers(0, 999), confidence=st.floats(0.2, 0.8), iou=st.floats(0.2, 0.8))
def test_the_same_boxes_as_a_slow_reference(seed: int, confidence: float, iou: float) -> None:
    numbers = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, 2, 12, generator=numbers) * 2
    boxes = torch.rand(3, 4, 12, generator=numbers) * 3
    points = torch.rand(12, 2, generator=numbers) * torch.tensor([8.0, 4.0])
    teacher = RawOutputs(scores, boxes, 1, points, torch.full((12,), 8.0))
    image, kind, box = pseudo_labels(teacher, SIZE, confidence, iou)
    limits = torch.tensor([SIZE[1], SIZE[0]] * 2)
    expected = []
    for i, k, cell in slow(teacher, confidence, iou):
        x1, y1, x2, y2 = (teacher.corners()[i, :, cell].clamp_min(0).minimum(limits)).tolist()
        expected.append((i, k, (x1 + x2) / 128, (y1 + y2) / 64, (x2 - x1) / 64, (y2 - y1) / 32))
    rows = torch.cat([image[:, None], kind, box], 1).tolist()
    assert torch.allclose(
        torch.tensor(sorted(rows)).reshape(-1, 6),
        torch.tensor(sorted(expected)).reshape(-1, 6),
        atol=1e-5,
    )


def test_a_net_labels_the_images_that_have_no_labels(net: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        teacher = raw_outputs(net, net(images[:4]))
    found = pseudo_labels(teacher, (IMGSZ, IMGSZ), 0.5, 0.6)
    batch = {
        "img": images[:4],
        "batch_idx": torch.tensor([0.0, 1.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0], [2.0]]),
        "bboxes": torch.full((3, 4), 0.5),
    }
    filled = with_pseudo_labels(batch, 2, found)
    own = found[0] >= 2
    assert own.any()
    assert (~own).any()  # the teacher saw the labelled images too
    index = filled["batch_idx"]
    assert index.tolist() == [0, 1, 1, *found[0][own].tolist()]
    assert filled["cls"][3:].tolist() == found[1][own].float().tolist()
    assert torch.equal(filled["bboxes"][3:], found[2][own])
    assert filled["cls"].dtype == index.dtype == torch.float32
    assert len(batch["cls"]) == 3  # the batch itself stays
    net.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    loss, items = net.init_criterion()(net.train()(images[:4]), filled)
    assert torch.isfinite(loss).all()
    assert items["box_loss"] > 0


def test_a_batch_of_many_cells_is_quick() -> None:
    numbers = torch.Generator().manual_seed(0)
    scores = torch.randn(16, 80, 8400, generator=numbers) - 4
    boxes = torch.rand(16, 4, 8400, generator=numbers) * 3
    points = torch.rand(8400, 2, generator=numbers) * 80
    teacher = RawOutputs(scores, boxes, 1, points, torch.full((8400,), 8.0))
    start = time.perf_counter()
    image, _, _ = pseudo_labels(teacher, (640, 640), 0.5, 0.6)
    assert time.perf_counter() - start < 10
    assert torch.bincount(image).max() <= 300
