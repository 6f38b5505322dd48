"""Several processes train as one would, and end together. Run here on two CPU processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_training import Killed, KilledAt, killed
from small_extension import LOSS, Alone, BreaksOnOne, Mimic, StillNorm
from small_nets import IMGSZ, Silent
from torch import nn

from compress.errors import CompressError
from compress.models.processes import run_together
from compress.models.trainer import Training, TrainingExtension, TrainingJob, train
from compress.progress import Task

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


def test_two_processes_train_as_one_does(net: nn.Module, job: TrainingJob, tmp_path: Path) -> None:
    # one batch is the whole split, seen as drawn, by norms that keep their statistics
    for norm in [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]:
        norm.__class__ = StillNorm
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


class Counted:
    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.told.append((steps, note))


def report(folder: Path, bar: Task | None) -> None:
    (folder / os.environ["RANK"]).write_text(os.environ["WORLD_SIZE"])
    if bar is not None:
        bar.advance(2, "half")
        bar.advance(1)


def test_the_first_process_reports(tmp_path: Path) -> None:
    counted, before = Counted(), dict(os.environ)
    run_together(report, (tmp_path,), 2, counted)
    assert counted.told == [(2, "half"), (1, "")]
    assert [(tmp_path / name).read_text() for name in "01"] == ["2", "2"]
    assert dict(os.environ) == before


def fail(how: str, folder: Path, bar: Task | None) -> None:
    del bar
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    if os.environ["RANK"] == "0":
        time.sleep(300)
    if how == "fault":
        raise CompressError("the second is to blame")
    if how == "crash":
        raise ValueError("our own mistake")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("fault", CompressError, "^the second is to blame$"),
        ("crash", RuntimeError, r"Traceback(.|\n)*our own mistake"),
        ("kill", CompressError, "killed by signal 9"),
    ],
)
def test_one_that_fails_ends_all(
    how: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        run_together(fail, (how, tmp_path), 2, Counted())
    pids = [int(file.read_text()) for file in tmp_path.iterdir()]
    assert pids
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def linger(folder: Path, bar: Task | None) -> None:
    del bar
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(300)


_PARENT = """\
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_models_parallel import Counted, linger, run_together

if __name__ == "__main__":
    run_together(linger, (Path({folder!r}),), 2, Counted())
"""


def test_a_killed_parent_leaves_nobody(tmp_path: Path) -> None:
    folder, script = tmp_path / "pids", tmp_path / "parent.py"
    folder.mkdir()
    here = Path(__file__).parent
    script.write_text(_PARENT.format(paths=[str(here.parent), str(here)], folder=str(folder)))
    parent = subprocess.Popen([sys.executable, str(script)])
    files = [folder / "0", folder / "1"]
    assert waited(lambda: all(file.exists() and file.read_text() for file in files))
    parent.kill()
    parent.wait()
    assert waited(lambda: not any(alive(int(file.read_text())) for file in files))


def waited(condition: object, seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.1)
    return bool(condition())  # type: ignore[operator]
