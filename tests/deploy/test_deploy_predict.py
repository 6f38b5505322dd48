"""A bundle finds what ultralytics finds with the same file, for every task and head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from deploy_nets import LIMITS, Bundled
from slow import slow_if
from task_nets import TASKS
from ultralytics import YOLO

from deploy.detections import Detections
from deploy.detector import Detector
from deploy.images import read_image
from deploy.manifest import read_bundle

HEADS = [head for head, task in TASKS.items() if task != "classify"]
ENDS = ["Detect-sparse", "Segment-sparse", "Detect-nms", "Segment-nms", "Pose-nms", "OBB-nms"]


SLOW = {
    *("Segment", "Detect26", "Pose26", "OBB26"),
    *("Detect-sparse", "Detect-nms", "Segment-nms", "OBB-nms"),
}


@pytest.fixture(params=slow_if(SLOW, [*HEADS, *ENDS]))
def bundle(request: pytest.FixtureRequest, bundled: Callable[[str], Bundled]) -> Bundled:
    return bundled(request.param)


def peers(bundle: Bundled) -> list:
    """What ultralytics' own runtime finds, masks at the image's resolution."""
    return YOLO(str(bundle.onnx), task=bundle.task).predict(
        [str(image) for image in bundle.images],
        imgsz=64,
        conf=LIMITS.score,
        iou=LIMITS.iou,
        max_det=LIMITS.max_boxes,
        retina_masks=True,
        verbose=False,
        device="cpu",
    )


def test_boxes_scores_and_classes_agree(bundle: Bundled) -> None:
    detector = Detector(read_bundle(bundle.folder))
    count = 0
    for file, peer in zip(bundle.images, peers(bundle), strict=True):
        image = read_image(file)
        boxes = peer.obb if bundle.task == "obb" else peer.boxes
        found = _without_specks(detector.detect(image), boxes.conf.numpy())
        assert found.image == peer.orig_shape
        np.testing.assert_allclose(found.scores, boxes.conf.numpy(), atol=1e-4)
        assert found.classes.tolist() == boxes.cls.int().tolist()
        np.testing.assert_allclose(found.boxes, boxes.xyxy.numpy(), atol=0.02)
        _compare_extras(found, peer)
        count += len(found)
    assert count > 10


def _without_specks(found: Detections, scores: np.ndarray) -> Detections:
    """Without the objects of a few pixels that ultralytics' scaling of masks loses."""
    specks = [
        index
        for index, mask in enumerate(found.masks or ())
        if mask.pixels.sum() < 5 and np.abs(scores - found.scores[index]).min() > 1e-5
    ]
    if not specks:
        return found
    stay = np.setdiff1d(np.arange(len(found)), specks)
    return Detections(
        found.image,
        found.boxes[stay],
        found.scores[stay],
        found.classes[stay],
        masks=tuple(found.masks[index] for index in stay),
    )


def _compare_extras(found: Detections, peer: object) -> None:
    if peer.obb is not None:
        np.testing.assert_allclose(found.rotated, peer.obb.xywhr.numpy(), atol=0.02)
    if peer.keypoints is not None:
        np.testing.assert_allclose(found.keypoints, peer.keypoints.data.numpy(), atol=0.02)
    if peer.masks is not None:
        theirs = peer.masks.data.numpy() > 0
        ours = np.stack([mask.full(found.image) for mask in found.masks])
        # ultralytics scales in two steps, so that single pixels at the edge differ
        assert (ours != theirs).mean() < 0.01
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95


def test_what_is_written_is_what_was_found(bundle: Bundled) -> None:
    detector = Detector(read_bundle(bundle.folder))
    found = detector.detect(read_image(bundle.images[0]))
    rows = found.as_json(detector.bundle.labels)
    np.testing.assert_allclose([row["box"] for row in rows], found.boxes, atol=0.006)
    assert [row["name"] for row in rows] == [detector.bundle.labels[c] for c in found.classes]
    for index, row in enumerate(rows):
        if bundle.task == "segment":
            height, width = row["mask"]["size"]
            runs = np.repeat(np.arange(len(row["mask"]["counts"])) % 2, row["mask"]["counts"])
            mask = runs.reshape(width, height).T.astype(bool)
            assert (mask == found.masks[index].full(found.image)).all()
        if bundle.task == "obb":
            assert np.mean(row["corners"], 0) == pytest.approx(row["rotated"][:2], abs=0.01)


def test_thresholds_can_be_raised_for_a_call(bundled: Callable[[str], Bundled]) -> None:
    bundle = bundled("Detect")
    image = read_image(bundle.images[0])
    usual = Detector(read_bundle(bundle.folder)).detect(image)
    limit = float(np.median(usual.scores))
    fewer = Detector(read_bundle(bundle.folder), score=limit).detect(image)
    assert 0 < len(fewer) < len(usual)
    assert (fewer.scores > limit).all()


def test_image_of_one_pixel_and_a_very_thin_one(
    bundled: Callable[[str], Bundled], tmp_path: Path
) -> None:
    detector = Detector(read_bundle(bundled("Segment").folder))
    for shape in ((1, 1, 3), (1, 400, 3), (400, 2, 3)):
        found = detector.detect(np.zeros(shape, np.uint8))
        assert found.image == shape[:2]
        assert (found.boxes <= [shape[1], shape[0]] * 2).all()
