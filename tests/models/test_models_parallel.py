"""Several processes train as one would. Run here on two CPU processes."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_training import Killed, KilledAt, killed
from small_extension import LOSS, Alone, BreaksOnOne, Mimic
from small_nets import IMGSZ, Silent
from still_layers import still
from torch import nn

from compress.errors import CompressError
from compress.models.trainer import Training, TrainingExtension, TrainingJob, train

AS_DRAWN = dict.fromkeys(
    ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "erasing"), 0.0
)
ARGUMENTS = {"epochs": 3, "batch": 8, "optimizer": "AdamW", "lr0": 0.002, "close_mosaic": 1}
BATCHES = 2  # an epoch, in each process


@pytest.fixture
def job(data_yaml: Path, tmp_path: Path) -> TrainingJob:
    folder = tmp_path / "scratch"
    return TrainingJob(data_yaml, 16, IMGSZ, 0, "cpu", 0, folder, ARGUMENTS, processes=2)


def run(net: nn.Module, job: TrainingJob, extension: TrainingExtension) -> Training:
    return train(deepcopy(net), job, Silent(), "test", [extension])


def left_by(folder: Path) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What each process ended with: its student and its projector."""
    return [torch.load(folder / f"{rank}.left") for rank in range(2)]


@pytest.fixture
def still_net(net: nn.Module, tmp_path: Path) -> Iterator[nn.Module]:
    with still(net, tmp_path):
        yield net


def test_two_processes_train_as_one_does(
    still_net: nn.Module, job: TrainingJob, tmp_path: Path
) -> None:
    net = still_net
    # one batch is the whole split, seen as drawn
    arguments = {"epochs": 3, "batch": 16, "optimizer": "SGD", "lr0": 0.02, "warmup_epochs": 0}
    job = replace(job, arguments={**arguments, **AS_DRAWN})
    (tmp_path / "one").mkdir()
    together = run(net, job, Alone(left_at=tmp_path))
    alone = replace(job, processes=1, folder=tmp_path / "alone")
    one = run(net, alone, Alone(left_at=tmp_path / "one"))
    moved = {k: (v - net.state_dict()[k]).abs().max() for k, v in one.weights.items()}
    assert moved["model.0.conv.weight"] > 1e-3
    torch.testing.assert_close(together.weights, one.weights, rtol=1e-4, atol=1e-5)
    first, second = left_by(tmp_path)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    theirs = torch.load(tmp_path / "one" / "0.left")["projector"]
    torch.testing.assert_close(first["projector"], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_killed_training_of_two_ends_where_a_straight_one_does(
    net: nn.Module, job: TrainingJob, tmp_path: Path
) -> None:
    straight = run(net, replace(job, folder=tmp_path / "straight"), Mimic(left_at=tmp_path))
    first, second = left_by(tmp_path)
    torch.testing.assert_close(first["projector"], second["projector"], rtol=0, atol=0)
    for name, _ in net.named_parameters():
        assert torch.equal(first["student"][name], second["student"][name]), name
    statistics = "model.0.bn.running_mean"  # each has seen other images
    assert not torch.equal(first["student"][statistics], second["student"][statistics])
    with pytest.raises(Killed):
        train(deepcopy(net), job, KilledAt(BATCHES + 1, killed), "test", [Mimic()])
    state = torch.load(job.folder / "state.pt")
    assert state["epoch"] < ARGUMENTS["epochs"] - 1
    resumed = run(net, job, Mimic())
    torch.testing.assert_close(resumed.weights, straight.weights, rtol=0, atol=0)
    assert resumed.curves == straight.curves
    assert all(len(curve) == ARGUMENTS["epochs"] for curve in resumed.curves.values())
    assert f"train/{LOSS}" in resumed.curves


@pytest.mark.slow
def test_a_loss_that_breaks_in_one_process_ends_both(net: nn.Module, job: TrainingJob) -> None:
    with pytest.raises(CompressError, match=rf"'{LOSS}' became nan in epoch 2 of 3"):
        run(net, job, BreaksOnOne())
    assert torch.load(job.folder / "state.pt")["epoch"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"), [({"batch": 9}, "multiple"), ({"rect": True}, "rect")]
)
def test_what_cannot_be_shared_is_refused(
    arguments: dict[str, object], words: str, net: nn.Module, job: TrainingJob
) -> None:
    with pytest.raises(CompressError, match=words):
        run(net, replace(job, arguments={**ARGUMENTS, **arguments}), Mimic())
    assert not job.folder.exists()
