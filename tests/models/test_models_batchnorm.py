"""BatchNorm statistics on train images: what training mode sees, and nothing else changes."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from small_nets import IMGSZ, Silent
from torch import Tensor, nn

from compress.models.batchnorm import reestimate
from compress.models.train_samples import train_samples

ALL = 16  # images of the train split


def again(model: nn.Module, data_yaml: Path, images: int = ALL, seed: int = 0) -> nn.Module:
    return reestimate(model, data_yaml, IMGSZ, images, seed, "cpu", Silent())


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def statistics(model: nn.Module) -> Tensor:
    return torch.cat([torch.cat([n.running_mean, n.running_var]) for n in norms_of(model)])


@pytest.fixture
def cut(net: nn.Module) -> nn.Module:
    """A net of which a part is gone: its statistics no longer fit."""
    with torch.no_grad():
        for norm in norms_of(net)[:8]:
            norm.weight[::2] = 0
            norm.bias[::2] = 0
    return net


def test_statistics_are_those_of_the_batch(cut: nn.Module, data_yaml: Path) -> None:
    samples = train_samples(cut, data_yaml, IMGSZ, ALL, seed=0)
    reference = deepcopy(cut).train()
    for norm in norms_of(reference):
        norm.momentum = 1.0  # keep the last batch alone
    with torch.no_grad():
        for batch in samples.batches(ALL, torch.device("cpu")):
            reference(batch["img"])
    found = statistics(again(cut, data_yaml))
    assert torch.allclose(found, statistics(reference), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, statistics(cut), rtol=0.1)


def test_several_batches_are_averaged_alike(
    cut: nn.Module, data_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.models.batchnorm.BATCH", 6)  # 16 images: 6, 5 and 5
    samples = train_samples(cut, data_yaml, IMGSZ, ALL, seed=0)
    seen = []
    first = cut.model[0].conv
    for batch in samples.batches(6, torch.device("cpu")):
        with torch.no_grad():
            seen.append(first(batch["img"]).mean((0, 2, 3)))
    assert [len(batch["img"]) for batch in samples.batches(6, torch.device("cpu"))] == [6, 5, 5]
    found = again(cut, data_yaml).model[0].bn.running_mean
    assert torch.allclose(found, torch.stack(seen).mean(0), atol=1e-5)


def test_weights_and_mode_stay(cut: nn.Module, data_yaml: Path) -> None:
    before = statistics(cut)
    found = again(cut, data_yaml)
    assert torch.equal(statistics(cut), before)
    modes = [module.training for module in cut.modules()]
    assert [module.training for module in found.modules()] == modes
    pairs = zip(cut.parameters(), found.parameters(), strict=True)
    assert all(torch.equal(before, after) for before, after in pairs)
    assert [n.momentum for n in norms_of(found)] == [n.momentum for n in norms_of(cut)]
    assert vars(found).keys() == vars(cut).keys()


def test_no_images_change_nothing(cut: nn.Module, data_yaml: Path) -> None:
    state = again(cut, data_yaml, images=0).state_dict()
    assert all(torch.equal(state[name], value) for name, value in cut.state_dict().items())


def test_the_seed_decides_the_images(cut: nn.Module, data_yaml: Path) -> None:
    first = statistics(again(cut, data_yaml, images=4, seed=1))
    assert torch.equal(statistics(again(cut, data_yaml, images=4, seed=1)), first)
    assert not torch.equal(statistics(again(cut, data_yaml, images=4, seed=2)), first)


def test_a_layer_that_no_image_reaches_keeps_its_statistics(
    cut: nn.Module, data_yaml: Path
) -> None:
    cut.model[0].spare = nn.BatchNorm2d(3).eval()
    cut.model[0].spare.running_mean.fill_(7)
    assert again(cut, data_yaml).model[0].spare.running_mean.tolist() == [7, 7, 7]


def test_images_are_not_augmented(net: nn.Module, data_yaml: Path, images: Tensor) -> None:
    """Each batch image is one of the data set's, letterboxed as in validation."""
    samples = train_samples(net, data_yaml, IMGSZ, ALL, seed=0)
    (batch,) = samples.batches(ALL, torch.device("cpu"))
    for image in images:
        assert (batch["img"] - image).abs().flatten(1).mean(1).min() < 0.02
