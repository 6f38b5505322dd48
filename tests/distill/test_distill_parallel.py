"""Distillation in several processes. Run here on two CPU processes."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lessons import term
from small_nets import IMGSZ, Silent, settled_net
from still_layers import still
from torch import Tensor, nn

from compress.distill.extension import Distillation
from compress.distill.settings import Settings
from compress.distill.teachers import TeacherSpec
from compress.models.trainer import TrainingJob, train
from compress.models.unlabeled import UnlabeledImages

AS_DRAWN = dict.fromkeys(
    ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "erasing"), 0.0
)


class Drawn(Distillation):
    """With bridges that are drawn alike whatever the number of processes."""

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        torch.manual_seed(0)
        super().prepare(model, device, imgsz)


@pytest.fixture
def teacher(wide_yaml: Path, images: Tensor) -> nn.Module:
    return settled_net(wide_yaml, images, seed=3)


def test_two_processes_learn_from_a_teacher_as_one_does(
    net: nn.Module, teacher: nn.Module, data_yaml: Path, tmp_path: Path
) -> None:
    """Each sees half of every batch; the projectors lie outside of what torch averages itself."""
    arguments = {"epochs": 2, "batch": 16, "optimizer": "SGD", "lr0": 0.001, "warmup_epochs": 0}
    job = TrainingJob(
        data_yaml, 16, IMGSZ, 0, "cpu", 0, tmp_path / "two", {**arguments, **AS_DRAWN}, 2
    )
    trained = []
    with still(net, tmp_path):
        for work in (job, replace(job, processes=1, folder=tmp_path / "one")):
            distillation = Drawn(
                [TeacherSpec(deepcopy(teacher))],
                [term("cwd", 3.0), term("mimic")],
                Settings(labels=0.0),
            )
            training = train(deepcopy(net), work, Silent(), "test", [distillation])
            bridges = torch.load(work.folder / "state.pt")["extensions"][0]["lessons"][0]["bridges"]
            trained.append((training.weights, bridges))
    (two, its_bridges), (one, their_bridges) = trained
    moved = (one["model.15.cv2.conv.weight"] - net.state_dict()["model.15.cv2.conv.weight"]).abs()
    assert moved.max() > 1e-4
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(its_bridges, their_bridges, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_online_teachers_and_unlabeled_images_work_in_two_processes(
    net: nn.Module, teacher: nn.Module, data_yaml: Path, tmp_path: Path
) -> None:
    arguments = {"epochs": 2, "batch": 8, "optimizer": "AdamW", "lr0": 0.001, "close_mosaic": 1}
    job = TrainingJob(data_yaml, 16, IMGSZ, 0, "cpu", 0, tmp_path / "two", arguments, 2)
    distillation = Distillation([TeacherSpec(teacher, online=True)], [term("bce"), term("mgd")])
    extra = UnlabeledImages(data_yaml.parent / "images" / "val", 4, 0, 0)
    training = train(deepcopy(net), job, Silent(), "test", [extra, distillation])
    curves = training.curves
    for name in ("train/kd_mgd", "train/kd_teacher", "train/box_loss"):
        assert len(curves[name]) == 2
        assert all(math.isfinite(value) and value > 0 for value in curves[name])
