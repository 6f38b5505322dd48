"""A training that was killed goes on and ends where a straight one ends, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from killed_training import ARGUMENTS, BATCHES, Killed, KilledAt, killed
from slow import slow
from small_extension import LOSS, Mimic
from small_nets import IMGSZ, Silent, calibrated
from torch import Tensor, nn

from compress.models import trainer as trainer_module
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.trainer import (
    ResumableTrainer,
    Training,
    TrainingExtension,
    TrainingJob,
    train,
)
from compress.models.training_state import read_state, write_state
from compress.quantize.scales import ScaleTraining


def job(data: Path, folder: Path, **arguments: object) -> TrainingJob:
    given = {**ARGUMENTS, **arguments}
    return TrainingJob(data, 16, IMGSZ, 0, "cpu", 0, folder, given)


@dataclass(frozen=True)
class Case:
    """A student and what is added to its training, made anew for every process."""

    name: str
    net: nn.Module
    images: Tensor

    def train(self, data: Path, folder: Path, progress: object, **arguments: object) -> Training:
        student, extensions = deepcopy(self.net), self._extensions()
        if self.name == "simulated":
            student = calibrated(self.net, [self.images]).model
            extensions = [*extensions, ScaleTraining()]
        return train(student, job(data, folder, **arguments), progress, "test", extensions)

    def _extensions(self) -> Sequence[TrainingExtension]:
        return [] if self.name == "plain" else [Mimic()]


@pytest.fixture(
    scope="module",
    params=["plain", *slow("extended", "simulated")],
)
def case(request: pytest.FixtureRequest, _settled: nn.Module, images: Tensor) -> Case:
    return Case(request.param, _settled, images)


@pytest.fixture(scope="module")
def straight(case: Case, data_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return case.train(data_yaml, tmp_path_factory.mktemp("straight"), Silent())


def assert_equal(one: Training, other: Training) -> None:
    assert one.weights.keys() == other.weights.keys()
    assert [k for k in one.weights if not torch.equal(one.weights[k], other.weights[k])] == []
    assert one.curves == other.curves


# in the middle of epoch 2, and in the last epoch, whose augmentation is another one
@pytest.mark.parametrize("batch", [*slow(BATCHES + 1), 2 * BATCHES + 1])
def test_an_interrupted_training_ends_where_a_straight_one_does(
    batch: int, case: Case, straight: Training, data_yaml: Path, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        case.train(data_yaml, tmp_path, KilledAt(batch, killed))
    resumed = case.train(data_yaml, tmp_path, Silent())
    assert_equal(resumed, straight)
    assert all(len(curve) == ARGUMENTS["epochs"] for curve in resumed.curves.values())


def test_training_changes_what_it_should(case: Case, straight: Training) -> None:
    start = case.net.state_dict()
    trained = straight.weights
    assert not torch.equal(trained["model.0.conv.weight"], start["model.0.conv.weight"])
    names = {f"train/{term}" for term in ("box_loss", "cls_loss", "dfl_loss")}
    names |= set() if case.name == "plain" else {f"train/{LOSS}"}
    assert names == {name for name in straight.curves if name.startswith("train/")}
    assert len(set(straight.curves["train/cls_loss"])) == 3


@pytest.fixture(scope="module")
def plain(_settled: nn.Module, images: Tensor) -> Case:
    return Case("plain", _settled, images)


@pytest.fixture(scope="module")
def plain_straight(
    plain: Case, data_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Training:
    return plain.train(data_yaml, tmp_path_factory.mktemp("plain"), Silent())


def rated(*fitness: float) -> Callable[[ResumableTrainer], tuple[dict[str, float], float]]:
    """Validation that finds these mAPs, one an epoch."""

    def validate(trainer: ResumableTrainer) -> tuple[dict[str, float], float]:
        found = fitness[trainer.epoch]
        trainer.best_fitness = max(found, trainer.best_fitness or 0.0)
        return {"metrics/mAP50-95(B)": found}, found

    return validate


@pytest.fixture(scope="module")
def rated_straight(
    plain: Case, data_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Training:
    """Trained while epoch 2 is the best."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResumableTrainer, "validate", rated(0.1, 0.3, 0.2))
        return plain.train(data_yaml, tmp_path_factory.mktemp("rated"), Silent())


@pytest.mark.parametrize("file", [*slow("best_weights.pt"), "state.pt"])
def test_a_kill_between_the_files_of_an_epoch_loses_nothing(
    file: str,
    plain: Case,
    rated_straight: Training,
    data_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ResumableTrainer, "validate", rated(0.1, 0.3, 0.2))
    write, written = trainer_module.write_state, []

    def die(state: dict[str, object], path: Path) -> None:
        written.append(path.name)
        if path.name == file and written.count(file) == 2:
            path.with_suffix(".part").write_bytes(b"half")
            raise Killed
        write(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "write_state", die)
        with pytest.raises(Killed):
            plain.train(data_yaml, tmp_path, Silent())
    assert_equal(plain.train(data_yaml, tmp_path, Silent()), rated_straight)


@pytest.mark.parametrize("best", [1, *slow(2)])
def test_the_weights_of_the_best_epoch_are_given(
    best: int, plain: Case, data_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitness = [0.3 if epoch == best else 0.1 for epoch in (1, 2, 3)]
    monkeypatch.setattr(ResumableTrainer, "validate", rated(*fitness))
    with pytest.raises(Killed):
        plain.train(data_yaml, tmp_path, KilledAt(best * BATCHES + 1, killed))
    average = torch.load(tmp_path / "state.pt")["ema"]  # after the best epoch
    done = plain.train(data_yaml, tmp_path, Silent())
    assert done.curves["metrics/mAP50-95(B)"] == fitness
    assert all(torch.equal(done.weights[name], value) for name, value in average.items())
    last = torch.load(tmp_path / "state.pt")["ema"]
    assert not torch.equal(last["model.0.conv.weight"], average["model.0.conv.weight"])


def test_patience_counts_on_over_a_kill(
    plain: Case, data_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResumableTrainer, "validate", rated(0.5, 0.4, 0.3, 0.2, 0.1))
    patient = {"epochs": 5, "patience": 2}
    straight = plain.train(data_yaml, tmp_path / "straight", Silent(), **patient)
    assert len(straight.curves["train/box_loss"]) == 3
    with pytest.raises(Killed):
        plain.train(data_yaml, tmp_path, KilledAt(2 * BATCHES + 1, killed), **patient)
    assert_equal(plain.train(data_yaml, tmp_path, Silent(), **patient), straight)


_VICTIM = """\
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
from killed_training import KilledAt
from test_models_resume import job
from compress.models.checkpoint import load_checkpoint
from compress.models.trainer import train

progress = KilledAt({batch}, lambda: os.kill(os.getpid(), signal.SIGKILL))
student = load_checkpoint(Path({student!r}))
train(student, job(Path({data!r}), Path({folder!r})), progress, "victim")
"""


def test_a_killed_process_goes_on(
    net: nn.Module, plain_straight: Training, data_yaml: Path, tmp_path: Path
) -> None:
    student, folder = tmp_path / "net.pt", tmp_path / "scratch"
    save_checkpoint(net, student)
    here = Path(__file__).parent
    script = _VICTIM.format(
        tests=str(here.parent),
        here=str(here),
        batch=BATCHES + 1,
        student=str(student),
        data=str(data_yaml),
        folder=str(folder),
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ), capture_output=True, timeout=240
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    resumed = train(load_checkpoint(student), job(data_yaml, folder), Silent(), "again")
    assert_equal(resumed, plain_straight)


def test_a_state_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state.pt"
    write_state({"epoch": 1}, file)

    def die(*_: object) -> None:
        raise Killed

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, die)
            with pytest.raises(Killed):
                write_state({"epoch": 2}, file)
        assert read_state(file) == {"epoch": 1}
    write_state({"epoch": 2}, file)
    assert read_state(file) == {"epoch": 2}


def test_a_finished_training_is_not_run_again(plain: Case, data_yaml: Path, tmp_path: Path) -> None:
    first = plain.train(data_yaml, tmp_path, Silent(), epochs=1)
    never = KilledAt(1, killed)
    assert_equal(plain.train(data_yaml, tmp_path, never, epochs=1), first)
