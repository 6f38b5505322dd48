"""Exports that what stands before them cannot give are told before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.errors import CompressError
from compress.recipe import load_recipe


def load(tmp_path: Path, *stages: dict[str, Any], **top: Any) -> None:
    file = tmp_path / "r.yaml"
    recipe = {"version": 1, "model": "m.pt", "data": "d.yaml", **top, "stages": list(stages)}
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    load_recipe(file)


def ptq(**options: Any) -> dict[str, Any]:
    return {"stage": "ptq", **options}


def export(**options: Any) -> dict[str, Any]:
    return {"stage": "export", **options}


@pytest.mark.parametrize("target", ["openvino", ["tensorrt", "openvino"]])
def test_a_file_with_more_points_than_were_ranged_is_refused(target: Any, tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"r\.yaml:\d+.*targets.*list it there, too"):
        load(tmp_path, ptq(target=target), export(targets=["onnxruntime"]))
    load(tmp_path, ptq(target=target), export())  # by default what was quantized for
    load(tmp_path, ptq(), export(targets=["onnxruntime", "openvino", "tensorrt"]))


def test_widened_outputs_cannot_be_int8(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="quantize_head"):
        load(tmp_path, ptq(quantize_head=True), export(pad_outputs=8))
    load(tmp_path, ptq(), export(pad_outputs=8))
    load(tmp_path, ptq(quantize_head=True), export())


def test_a_bundle_needs_decoded_cells(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match="raw maps"):
        load(tmp_path, export(head="raw"), {"stage": "bundle"})
    load(tmp_path, export(head="nms"), {"stage": "bundle"})


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"head": "raw", "keep": 100}, "decodes nothing"),
        ({"nms": {"iou": 0.5}}, "only `head: nms` uses"),
        ({"opset": 17, "ir_version": 7}, "IR version 8"),
        ({"opset": 20, "ir_version": 8}, "IR version 9"),
    ],
)
def test_export_options_must_have_a_meaning(
    options: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(CompressError, match=fault):
        load(tmp_path, export(**options))


def test_ir_versions_that_fit_are_taken(tmp_path: Path) -> None:
    load(tmp_path, export(opset=13, ir_version=7))
    load(tmp_path, export(opset=18, ir_version=8))


def test_moving_ranges_stay_on_one_device(tmp_path: Path) -> None:
    qat = {"stage": "qat", "ranges": "ema", "train": {"epochs": 1}}
    with pytest.raises(CompressError, match="several devices"):
        load(tmp_path, qat, device="0,1")
    load(tmp_path, qat, device="0")
