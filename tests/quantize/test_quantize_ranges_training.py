"""Ranges that are learned, moved or kept while a simulated net is trained."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_training import Killed, KilledAt, killed
from quantize_nets import simulated
from small_nets import IMGSZ, Silent
from torch import Tensor, nn

from compress.data.dataset import DataSet
from compress.models.trainer import Training, TrainingJob, train
from compress.quantize.damping import LOSS_NAME, Damping
from compress.quantize.fake_quantizer import FakeQuantizer, RangeMode
from compress.quantize.noise import WeightNoise
from compress.quantize.range_check import range_of
from compress.quantize.scales import ScaleTraining, learned_scales, set_up_training
from compress.quantize.simulation import Simulation

FULL = WeightNoise()


def moving(low: float, high: float, symmetric: bool = False) -> FakeQuantizer:
    quantizer = FakeQuantizer(symmetric)
    quantizer.set_range(low, high)
    quantizer.mode, quantizer.moving = "ema", True
    return quantizer.train()


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_moving_range_ends_at_the_extremes_of_its_batches(symmetric: bool) -> None:
    quantizer = moving(-1.0, 1.0, symmetric)
    widths = []
    for _ in range(600):
        quantizer(torch.tensor([4.0, -2.0]))
        quantizer(torch.tensor([0.5, -0.25]))  # another point of the group: both count
        quantizer.move()
        low, high = range_of(quantizer)
        widths.append(high - low)
    assert widths == sorted(widths)  # no jumps, no swinging
    assert widths[0] < 2.1
    assert high == pytest.approx(4.0, rel=0.01)
    assert low == pytest.approx(-4.0 * 128 / 127 if symmetric else -2.0, rel=0.02)
    assert not quantizer.scale.requires_grad


def test_a_moving_range_shrinks_too_and_keeps_zero() -> None:
    quantizer = moving(-8.0, 8.0)
    for _ in range(900):
        quantizer(torch.tensor([2.0, 3.0]))
        quantizer.move()
    assert range_of(quantizer) == pytest.approx((0.0, 3.0), abs=0.03)
    assert float(quantizer(torch.zeros(1))) == 0.0


def test_a_range_does_not_move_in_evaluation_nor_when_frozen() -> None:
    quantizer = moving(-1.0, 1.0)
    before = range_of(quantizer)
    quantizer.eval()(torch.tensor([9.0]))
    quantizer.move()
    quantizer.train().moving = False
    quantizer(torch.tensor([9.0]))
    quantizer.move()
    assert range_of(quantizer) == before


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_a_dead_tensor_leaves_a_range_that_quantizes(value: float, symmetric: bool) -> None:
    quantizer = moving(0.0, 1e-3, symmetric)
    for _ in range(3000):
        quantizer(torch.full((2, 2), value))
        quantizer.move()
    assert float(quantizer.scale) > 0
    assert torch.isfinite(quantizer(torch.ones(2, 2))).all()


@pytest.mark.parametrize(("ranges", "learned"), [("learned", True), ("fixed", False)])
def test_only_what_is_learned_is_in_the_optimizer(
    net: nn.Module, images: Tensor, ranges: RangeMode, learned: bool
) -> None:
    simulation = simulated(net, images)
    set_up_training(simulation, ranges, learned, FULL)
    groups = ScaleTraining().parameter_groups(simulation.model, 0.01)
    found = {id(parameter) for group in groups for parameter in group["params"]}
    expected = {
        id(quantizer.log_scale) for _, quantizer in simulation.groups if quantizer.mode == "learned"
    } | {id(p) for quantizer in simulation.weights.values() for p in quantizer.parameters()}
    assert found == expected
    assert bool(found) == learned
    assert all(group["weight_decay"] == 0.0 for group in groups)
    modes = {quantizer.mode for _, quantizer in simulation.groups}
    assert modes == {ranges, "fixed"}  # sigmoids and the image are known for certain
    assert len(learned_scales(simulation.quantizers)) == len(found)


def trained(
    simulation: Simulation, dataset: DataSet, folder: Path, epochs: int, progress: Any
) -> Training:
    job = TrainingJob(
        data=dataset.yaml,
        images=len(dataset.splits["train"]),
        imgsz=IMGSZ,
        seed=0,
        device="cpu",
        workers=0,
        folder=folder,
        arguments={
            "epochs": epochs,
            "batch": 8,
            "lr0": 1e-4,
            "optimizer": "AdamW",
            "warmup_epochs": 0,
        },
    )
    extensions = [ScaleTraining(), Damping(10.0, 0.0, simulation.placement.convs)]
    return train(simulation.model, job, progress, "qat", extensions)


@pytest.fixture(scope="module")
def moved(
    _settled: nn.Module, images: Tensor, dataset: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Simulation, Simulation, Training]:
    """A net trained for three epochs on moving ranges and learned weights, before and after."""
    simulation = simulated(deepcopy(_settled), images[:1])
    for _, quantizer in simulation.groups:
        if quantizer.mode == "learned":  # far too wide, so that there is a way to go
            low, high = range_of(quantizer)
            quantizer.set_range(low * 50, high * 50)
    set_up_training(simulation, "ema", True, WeightNoise("share", 0.5))
    fresh = deepcopy(simulation)
    training = trained(simulation, dataset, tmp_path_factory.mktemp("moved"), 3, Silent())
    return fresh, simulation, training


Moved = tuple[Simulation, Simulation, Training]


def test_training_moves_ranges_towards_what_there_is(moved: Moved) -> None:
    fresh, after, _ = moved
    closer = 0
    for (_, old), (_, new) in zip(fresh.groups, after.groups, strict=True):
        if old.mode == "fixed":
            assert range_of(old) == range_of(new)
        else:
            closer += float(new.scale) < float(old.scale)
            assert new.mode == "ema"
    assert closer > 0.8 * sum(quantizer.mode == "ema" for _, quantizer in fresh.groups)


def test_the_average_of_the_weights_is_one_of_scales_too(moved: Moved) -> None:
    """Of learned weight scales, of moving ranges and their zero points; it can be loaded."""
    fresh, after, training = moved
    loaded = deepcopy(fresh)
    loaded.model.load_state_dict(training.weights)
    for name, quantizer in loaded.weights.items():
        if name.startswith("model.22."):
            continue  # its largest cells see no object here
        weight = fresh.convolution(name).weight
        start, last = (simulation.weights[name].scale(weight) for simulation in (fresh, after))
        assert not torch.equal(quantizer.scale(weight), start), name
        assert not torch.equal(quantizer.scale(weight), last), name
    for (_, old), (_, quantizer) in zip(fresh.groups, loaded.groups, strict=True):
        learned = deepcopy(quantizer)
        learned.mode = "learned"  # whoever reads the file need not know how it was made
        assert float(learned.scale.detach()) == pytest.approx(float(quantizer.scale), rel=1e-6)
        if old.mode == "fixed":
            assert int(old.zero_point) == int(quantizer.zero_point)


def test_damping_has_a_column(moved: Moved) -> None:
    _, _, training = moved
    column = training.curves[f"train/{LOSS_NAME}"]
    assert len(column) == 3
    assert all(value > 0 for value in column)


def test_moving_ranges_are_frozen_at_the_end(net: nn.Module, images: Tensor) -> None:
    simulation = simulated(net, images)
    set_up_training(simulation, "ema", False, FULL)
    scales = ScaleTraining()
    run: Any = type("Run", (), {"epochs": 10})
    scales.begin(run)
    scales.wrap_criterion(simulation.model, lambda preds, batch: None)
    frozen = []
    for epoch in range(10):
        scales.start_epoch(epoch)
        frozen.append(all(not quantizer.moving for _, quantizer in simulation.groups))
    assert frozen == [False] * 8 + [True] * 2


def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    net: nn.Module, images: Tensor, dataset: DataSet, tmp_path: Path
) -> None:
    """With noise, moving ranges, learned weight scales and damping."""

    def run(folder: str, progress: Any) -> Training:
        simulation = simulated(net, images)
        set_up_training(simulation, "ema", True, WeightNoise("share", 0.5))
        return trained(simulation, dataset, tmp_path / folder, 2, progress)

    straight = run("straight", Silent())
    with pytest.raises(Killed):
        run("stopped", KilledAt(3, killed))  # in the middle of the second epoch
    resumed = run("stopped", Silent())
    assert straight.weights.keys() == resumed.weights.keys()
    for key, value in straight.weights.items():
        assert torch.equal(value, resumed.weights[key]), key
    assert straight.curves == resumed.curves
