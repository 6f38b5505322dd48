"""Channels read from files of stock heads: attention, depthwise, transposed, end-to-end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
from slow import slow_if
from torch import nn
from ultralytics.nn.tasks import (
    ClassificationModel,
    OBBModel,
    PoseModel,
    SegmentationModel,
)

from bench.alignment.convs import BOX_BINS, HEAD, IMAGE, conv_sides, misaligned_convs
from bench.work import work_of
from compress.prune.cost import macs_cost, total_of
from export.float_onnx import export_float

IMGSZ = 64
NETS = {
    "yolo11n-seg": (SegmentationModel, {"cv2", "cv3", "cv4", "proto.cv3", "dfl"}),
    "yolo26n-pose": (PoseModel, {"cv2", "cv3", "cv4_kpts"}),
    "yolo11n-obb": (OBBModel, {"cv2", "cv3", "cv4", "dfl"}),
    "yolov8n-cls": (ClassificationModel, set()),
}
Export = tuple[nn.Module, Path, set[str]]


@pytest.fixture(scope="module", params=slow_if({"yolo11n-seg", "yolo11n-obb"}, NETS))
def export(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Export:
    kind, heads = NETS[request.param]
    model = kind(f"{request.param}.yaml", verbose=False).eval()
    model.fuse(verbose=False)
    model.model[-1].export, model.model[-1].format = True, "onnx"
    path = tmp_path_factory.mktemp("stock") / f"{request.param}.onnx"
    export_float(model, IMGSZ, path)
    return model, path, heads


def test_channels_are_those_of_the_modules(export: Export) -> None:
    model, path, _ = export
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    weights = {
        node.name: node.input[1].removesuffix(".weight")
        for node in onnx.load(str(path)).graph.node
        if node.op_type in {"Conv", "ConvTranspose"}
    }
    sides = conv_sides(path)
    assert {side.layer for side in sides} == weights.keys()
    for side in sides:
        conv = modules[weights[side.layer]]
        channels = conv.in_channels if side.side == "input" else conv.out_channels
        assert side.channels == channels, side.layer


def test_exempt_are_image_box_bins_and_the_heads_outputs_alone(export: Export) -> None:
    _, path, heads = export
    sides = [side for side in conv_sides(path) if side.exempt]
    images = [(side.layer, side.channels) for side in sides if side.exempt == IMAGE]
    assert images == [("/model.0/conv/Conv", 3)]
    assert [side.channels for side in sides if side.exempt == BOX_BINS] == [16] * ("dfl" in heads)
    last = [side.layer for side in sides if side.exempt == HEAD]
    found = {name for name in heads for layer in last if f"/{name.replace('.', '/')}" in layer}
    assert found == heads
    assert all(side.side == "output" for side in sides if side.exempt == HEAD)
    per_level = {name for name in heads if name.startswith("cv")}
    assert len(last) == 3 * len(per_level) + len(heads - per_level)


def test_stock_widths_are_multiples_of_8_but_where_a_head_counts_keypoints(export: Export) -> None:
    _, path, _ = export
    ragged = {fault.layer for fault in misaligned_convs(path, 8)}
    assert all("cv4" in layer for layer in ragged), ragged


def test_the_files_macs_are_those_of_the_modules(export: Export) -> None:
    model, path, _ = export
    counted = sum(layer.macs for layer in work_of(path).layers if layer.weight_bytes)
    assert counted == total_of(macs_cost(model, IMGSZ), model)
