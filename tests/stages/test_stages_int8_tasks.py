"""PTQ, QAT and INT8 export of every task, head and family, on small drawn data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drawn_tasks import draw_task_data
from slow import slow
from stage_chain import TRAIN, Ran, artifact, run_stage
from task_nets import TASKS, task_net

from compress.data.dataset import DataSet, load_dataset
from compress.models.build import build_model
from compress.models.checkpoint import load_checkpoint, save_checkpoint

TARGETS = ["onnxruntime", "tensorrt", "openvino"]
PTQ = {"stage": "ptq", "target": TARGETS}


def exported(quantized: Ran, data: DataSet, folder: Path, **options: Any) -> Ran:
    chain = ("base", "ptq")  # a base stands before every chain
    inputs = {f"checkpoint.{name}": quantized.artifact("checkpoint") for name in chain}
    inputs["ranges"] = quantized.artifact("ranges")
    export = {"stage": "export", "targets": TARGETS, **options}
    return run_stage(export, inputs, data, folder)


def assert_files_agree(ran: Ran) -> None:
    """Every tensor of every INT8 file is at most one step from its simulation."""
    found = ran.metrics["tensor_parity"]
    assert found.keys() == {f"int8-{target}" for target in TARGETS}
    for rows in found.values():
        assert rows["tensors"] > 20
        assert rows["worst_steps"] <= 1


@pytest.mark.parametrize("head", ["Segment", *slow("Pose", "OBB", "v10Detect", "Segment26")])
def test_every_task_and_head_is_quantized(head: str, tmp_path: Path) -> None:
    data = load_dataset(draw_task_data(tmp_path / "data", TASKS[head]))
    checkpoint = tmp_path / "model.pt"
    save_checkpoint(task_net(tmp_path, head, tmp_path / "data"), checkpoint)
    quantized = run_stage(PTQ, {"checkpoint": artifact(checkpoint)}, data, tmp_path / "ptq")
    again = load_checkpoint(quantized.files["checkpoint"])
    assert type(again.model[-1]) is type(load_checkpoint(checkpoint).model[-1])
    assert_files_agree(exported(quantized, data, tmp_path / "export", keep=50))


@pytest.mark.parametrize(
    ("head", "losses"),
    [
        pytest.param("Segment", ["cwd", "masks"], marks=pytest.mark.slow),
        ("Pose", ["bckd", "keypoints"]),
        pytest.param("OBB", ["cwd", "angle"], marks=pytest.mark.slow),
    ],
)
def test_every_task_is_trained_for_int8_under_distillation(
    head: str, losses: list[str], tmp_path: Path
) -> None:
    data = load_dataset(draw_task_data(tmp_path / "data", TASKS[head]))
    checkpoint = tmp_path / "model.pt"
    save_checkpoint(task_net(tmp_path, head, tmp_path / "data"), checkpoint)
    distill = {"teachers": ["parent"], "losses": [{"kind": kind} for kind in losses]}
    config = {"stage": "qat", "target": TARGETS, "train": TRAIN, "distill": distill}
    inputs = {"checkpoint": artifact(checkpoint), "teacher.0": artifact(checkpoint)}
    quantized = run_stage(config, inputs, data, tmp_path / "qat")
    curves = quantized.metrics["curves"]
    assert all(len(curves[f"train/kd_{kind}"]) == TRAIN["epochs"] for kind in losses)
    assert_files_agree(exported(quantized, data, tmp_path / "export"))


@pytest.mark.parametrize(
    "yaml",
    ["yolo11n.yaml", *slow("yolov5n.yaml", "yolov9t.yaml", "yolo12n.yaml", "yolo26n.yaml")],
)
def test_every_family_is_quantized(yaml: str, sample: DataSet, tmp_path: Path) -> None:
    """With attention, re-parametrised branches and heads without suppression."""
    checkpoint = tmp_path / "model.pt"
    save_checkpoint(build_model(Path(yaml), sample.names, 0), checkpoint)
    config = {**PTQ, "calibration": {"images": 4}}
    quantized = run_stage(config, {"checkpoint": artifact(checkpoint)}, sample, tmp_path / "ptq")
    assert_files_agree(exported(quantized, sample, tmp_path / "export"))
