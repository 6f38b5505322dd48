"""What a training keeps, what it leaves behind, and how it stops."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_extension import Mimic, hooks_of
from small_nets import IMGSZ, Silent, pruned_copy
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.inspect import conv_widths
from compress.models.trainer import TrainingExtension, TrainingJob, train


@pytest.fixture
def job(data_yaml: Path, tmp_path: Path) -> Callable[..., TrainingJob]:
    def make(**arguments: object) -> TrainingJob:
        given = {"epochs": 1, "batch": 8, "optimizer": "AdamW", "lr0": 0.001, **arguments}
        return TrainingJob(data_yaml, 16, IMGSZ, 0, "cpu", 0, tmp_path / "scratch", given)

    return make


def test_a_frozen_checkpoint_is_trained(
    net: nn.Module, job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    save_checkpoint(net, tmp_path / "net.pt")
    student = load_checkpoint(tmp_path / "net.pt")
    assert not any(parameter.requires_grad for parameter in student.parameters())
    trained = train(student, job(), Silent(), "test").weights
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert frozen == {"model.22.dfl.conv.weight"}
    before = {name: weight for name, weight in net.named_parameters() if "model.22." not in name}
    assert [name for name, weight in before.items() if torch.equal(weight, trained[name])] == []


def test_pruned_widths_survive_training(net: nn.Module, job: Callable[..., TrainingJob]) -> None:
    pruned = pruned_copy(net, 0.5)
    before = conv_widths(pruned)
    assert before != conv_widths(net)
    training = train(deepcopy(pruned), job(), Silent(), "test")
    assert {n: training.weights[f"{n}.weight"].shape[0] for n in before} == before
    pruned.load_state_dict(training.weights)


def test_weights_are_float32_on_the_cpu_and_nothing_but_the_students(
    net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    weights = train(deepcopy(net), job(), Silent(), "test", [Mimic()]).weights
    assert weights.keys() == net.state_dict().keys()
    assert {w.dtype for w in weights.values() if w.is_floating_point()} == {torch.float32}
    assert {str(w.device) for w in weights.values()} == {"cpu"}
    assert not any(w.requires_grad for w in weights.values())


class Broken(TrainingExtension):
    """A loss term that gives ``values`` in turn, and hooks like a real one."""

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)
        self.handle: Any = None

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        self.handle = model.model[0].register_forward_hook(lambda *_: None)

        def broken(preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            loss, items = criterion(preds, batch)
            value = loss.sum() * 0 + next(self.values)
            return torch.cat([loss, value[None]]), {**items, "odd_loss": value.detach()}

        return broken

    def close(self) -> None:
        self.handle.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training_by_name(
    value: float, net: nn.Module, job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    student = deepcopy(net)
    with pytest.raises(CompressError, match=r"'odd_loss' became (nan|inf) in epoch 2 of 3"):
        train(student, job(epochs=3), Silent(), "test", [Broken([0, 0, 0, value])])
    assert torch.load(tmp_path / "scratch" / "state.pt")["epoch"] == 0  # epochs before are kept
    assert hooks_of(student) == []
    assert student.criterion is None


def test_a_training_that_fails_leaves_no_hooks(
    net: nn.Module, job: Callable[..., TrainingJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, extension = deepcopy(net), Mimic()

    def fails(images: Tensor) -> Tensor:
        assert hooks_of(student)
        raise RuntimeError("the loss broke")

    monkeypatch.setattr(extension, "loss", fails)
    with pytest.raises(RuntimeError, match="the loss broke"):
        train(student, job(), Silent(), "test", [extension])
    assert hooks_of(student) == []
    assert student.criterion is None
    assert extension.closed == 1


def test_hooks_and_criterion_do_not_reach_a_checkpoint(
    net: nn.Module, job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    student = deepcopy(net)
    train(student, job(), Silent(), "test", [Mimic()])
    assert hooks_of(student) == []
    save_checkpoint(student, tmp_path / "student.pt")
    loaded = load_checkpoint(tmp_path / "student.pt")
    assert hooks_of(loaded) == []
    assert loaded.criterion is None
    assert loaded.state_dict().keys() == net.state_dict().keys()
    assert (tmp_path / "student.pt").stat().st_size < 1.1 * _size(net, tmp_path)


def _size(model: nn.Module, folder: Path) -> int:
    save_checkpoint(model, folder / "plain.pt")
    return (folder / "plain.pt").stat().st_size


def test_progress_counts_every_batch(net: nn.Module, job: Callable[..., TrainingJob]) -> None:
    progress = Silent()
    train(deepcopy(net), job(epochs=2), progress, "fitting")
    assert progress.tasks == [("fitting", 4)]
