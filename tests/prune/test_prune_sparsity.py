"""Sparse training: what the penalty is, that it presses on channels, that it leaves no trace."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from killed_training import Killed, KilledAt, killed
from small_nets import IMGSZ, NAMES, Silent
from torch import Tensor, nn

from compress.models.build import build_model
from compress.models.inspect import head_outputs
from compress.models.trainer import Training, TrainingJob, train
from compress.prune.sparsity import LOSS_NAME, Sparsity, decayed, lasso
from compress.prune.structure import PrunableModel

CPU = torch.device("cpu")
KINDS = pytest.mark.parametrize("kind", ["bn_scale", "group_lasso"])
EPOCHS = 3
WEIGHTS = {"bn_scale": 0.05, "group_lasso": 0.01}


def test_lasso_by_hand() -> None:
    norms = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    found = lasso(norms)
    assert found.item() == pytest.approx(16 * 1 + 4 * 2 + 1 * 3)
    found.backward()
    assert norms.grad is not None
    assert norms.grad.tolist() == pytest.approx([16, 4, 1])  # the weights are no part of the slope


def test_equal_norms_are_pressed_alike() -> None:
    norms = torch.full((3,), 2.0, requires_grad=True)
    lasso(norms).backward()
    assert norms.grad is not None
    assert norms.grad.tolist() == [1, 1, 1]


@given(weight=st.floats(1e-6, 1), final=st.floats(0, 1), epochs=st.integers(2, 50), data=st.data())
def test_the_weight_falls_in_equal_steps(
    weight: float, final: float, epochs: int, data: st.DataObject
) -> None:
    epoch = data.draw(st.integers(0, epochs - 2))
    step = decayed(weight, final, epoch, epochs) - decayed(weight, final, epoch + 1, epochs)
    assert step == pytest.approx(weight * (1 - final) / (epochs - 1), abs=1e-9)
    assert decayed(weight, final, 0, epochs) == weight
    assert decayed(weight, final, epochs - 1, epochs) == pytest.approx(weight * final, abs=1e-9)


def test_one_epoch_has_the_full_weight() -> None:
    assert decayed(0.5, 0.1, 0, 1) == 0.5


def penalty_of(kind: str, model: nn.Module) -> tuple[float, dict[str, Tensor]]:
    """Its value, and the gradient on every parameter it reaches."""
    extension = Sparsity(kind, 0.1, 0.05, EPOCHS)
    extension.prepare(model, CPU, IMGSZ)
    assert extension.penalty is not None
    model.requires_grad_(True)
    value = extension.penalty(model)
    value.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return value.item(), found


def test_every_prunable_scale_counts_once(net: nn.Module) -> None:
    net.model[0].bn.weight.data[0] *= -1
    value, slopes = penalty_of("bn_scale", net)
    scales = dict(net.named_parameters())
    assert all(name.endswith(".bn.weight") for name in slopes)
    assert all(torch.equal(slope, scales[name].sign()) for name, slope in slopes.items())
    assert value == pytest.approx(sum(scales[n].abs().sum().item() for n in slopes), rel=1e-5)
    norms = [n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(slopes) == len(norms)  # all but the last layers of the head have one


def test_the_lasso_is_that_of_the_groups(net: nn.Module) -> None:
    """Against norms gathered channel by channel."""
    value, slopes = penalty_of("group_lasso", net)
    structure = PrunableModel(net)
    weights, scales = structure.weights_of(net), structure.norm_scales_of(net)
    expected = 0.0
    for group in (group for unit in structure.units for group in unit.groups):
        squares = [0.0] * group.width
        for member in group.members:
            weight = weights[member.conv].detach()
            for position, channel in zip(
                member.positions.tolist(), member.channels.tolist(), strict=True
            ):
                part = weight[position] if member.side == "out" else weight[:, position]
                squares[channel] += float(part.pow(2).sum())
                if member.side == "out" and member.conv in scales:
                    squares[channel] += float(scales[member.conv][position].detach() ** 2)
        expected += float(lasso(torch.tensor(squares).sqrt()))
    assert value == pytest.approx(expected, rel=1e-3)
    readers = [f"{name}.weight" for name in head_outputs(net)]
    assert set(readers) <= slopes.keys()  # what reads a channel goes with it


@KINDS
def test_a_step_against_its_slope_lowers_the_penalty(kind: str, net: nn.Module) -> None:
    before, slopes = penalty_of(kind, net)
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        for name, slope in slopes.items():
            parameters[name] -= 1e-3 * slope
    net.zero_grad()
    assert penalty_of(kind, net)[0] < before


@KINDS
def test_a_dead_net_has_a_finite_slope(kind: str, net: nn.Module) -> None:
    for parameter in net.parameters():
        parameter.data.zero_()
    _, slopes = penalty_of(kind, net)
    assert all(torch.isfinite(slope).all() for slope in slopes.values())


@pytest.mark.parametrize("count", [1, 4])
def test_it_counts_for_each_image_and_falls_with_the_epochs(net: nn.Module, count: int) -> None:
    extension = Sparsity("bn_scale", 0.1, 0.5, epochs=2)
    extension.prepare(net, CPU, IMGSZ)
    updates: list[int] = []
    base: Any = _Base(updates)
    criterion = extension.wrap_criterion(net, base)
    batch = {"img": torch.zeros(count, 3, 8, 8)}
    for weight in (0.1, 0.05, 0.05):  # a third epoch would only come after the last one
        loss, items = criterion(None, batch)
        assert extension.penalty is not None
        value = weight * extension.penalty(net).item()
        assert items["box_loss"].item() == 2
        assert items[LOSS_NAME].item() == pytest.approx(value)
        assert loss.tolist() == pytest.approx([2 * count, value * count])
        criterion.update()
    assert len(updates) == 3  # an end-to-end loss has a schedule of its own


class _Base:
    """A loss of 2 an image."""

    def __init__(self, updates: list[int]) -> None:
        self.update = lambda: updates.append(1)

    def __call__(self, preds: object, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        del preds
        value = torch.tensor([2.0])
        return value * len(batch["img"]), {"box_loss": value[0]}


@pytest.fixture(scope="module")
def fresh(net_yaml: Path) -> nn.Module:
    """A net as training begins with it: its losses do not drown a penalty."""
    return build_model(net_yaml, NAMES, seed=0)


def run(
    net: nn.Module, data: Path, folder: Path, kind: str | None, progress: object = None
) -> Training:
    arguments = {"epochs": EPOCHS, "batch": 8, "optimizer": "SGD", "lr0": 0.05, "warmup_epochs": 0}
    job = TrainingJob(data, 16, IMGSZ, 0, "cpu", 0, folder, arguments)
    extensions = [Sparsity(kind, WEIGHTS[kind], 0.05, EPOCHS)] if kind else []
    return train(deepcopy(net), job, progress or Silent(), "test", extensions)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Path]:
    return {kind: tmp_path_factory.mktemp("run") for kind in (None, *WEIGHTS)}


@pytest.fixture(scope="module")
def runs(
    fresh: nn.Module, data_yaml: Path, folders: dict[str | None, Path]
) -> dict[str | None, Training]:
    """The same training without and with a penalty."""
    return {kind: run(fresh, data_yaml, folder, kind) for kind, folder in folders.items()}


def scale_sum(training: Training) -> float:
    return sum(
        float(value.abs().sum())
        for name, value in training.weights.items()
        if name.endswith("bn.weight")
    )


@KINDS
def test_scales_shrink_against_a_run_without_it(
    kind: str, runs: dict[str | None, Training]
) -> None:
    assert scale_sum(runs[kind]) < 0.98 * scale_sum(runs[None])


@KINDS
def test_the_term_is_in_the_curves_of_the_training_alone(
    kind: str, runs: dict[str | None, Training]
) -> None:
    curve = runs[kind].curves[f"train/{LOSS_NAME}"]
    assert len(curve) == EPOCHS
    assert curve[0] > curve[1] > curve[2] > 0
    assert f"val/{LOSS_NAME}" not in runs[kind].curves
    assert f"train/{LOSS_NAME}" not in runs[None].curves


@KINDS
def test_nothing_of_it_is_in_the_weights(kind: str, runs: dict[str | None, Training]) -> None:
    assert runs[kind].weights.keys() == runs[None].weights.keys()


@KINDS
def test_the_last_epoch_is_the_result(
    kind: str, runs: dict[str | None, Training], folders: dict[str | None, Path]
) -> None:
    """The sparsest net is wanted, though an earlier one may find more."""
    last = torch.load(folders[kind] / "state.pt", weights_only=True)["ema"]
    assert all(torch.equal(last[n], value) for n, value in runs[kind].weights.items())


def test_a_killed_run_ends_where_a_straight_one_does(
    runs: dict[str | None, Training], fresh: nn.Module, data_yaml: Path, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(fresh, data_yaml, tmp_path, "bn_scale", KilledAt(3, killed))  # in the second epoch
    resumed = run(fresh, data_yaml, tmp_path, "bn_scale")
    assert resumed.curves == runs["bn_scale"].curves
    weights = runs["bn_scale"].weights
    assert [n for n, v in resumed.weights.items() if not torch.equal(v, weights[n])] == []
