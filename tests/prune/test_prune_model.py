"""Pruning real nets: the same function as the dense net without the channels, and stock modules."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from small_nets import IMGSZ, NAMES, output_of, settled_net, write_net_yaml
from torch import Tensor, nn
from ultralytics.nn.modules import C2f

from compress.errors import CompressError
from compress.models.blocks import SplitC2f, join_blocks, split_blocks
from compress.models.build import build_model
from compress.models.inspect import conv_widths, count_macs, dfl_convs, head_outputs
from compress.prune.groups import DependencyGraph
from compress.prune.prune import Pruned, prune_model

ALIGN = 4
Prune = Callable[..., Pruned]


@pytest.fixture(scope="module")
def c3_net(images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """The small net with the blocks of YOLOv5."""
    yaml = write_net_yaml(tmp_path_factory.mktemp("c3") / "c3.yaml", width=0.125)
    yaml.write_text(yaml.read_text().replace("C2f", "C3"))
    return settled_net(yaml, images)


@pytest.fixture(scope="module")
def v5_net(images: Tensor) -> nn.Module:
    return settled_net(Path("yolov5n.yaml"), images)


@pytest.fixture(scope="module", params=["c2f", "c3", "v5n"])
def dense(request: pytest.FixtureRequest, _settled: nn.Module) -> nn.Module:
    if request.param == "c2f":
        return _settled
    net: nn.Module = request.getfixturevalue({"c3": "c3_net", "v5n": "v5_net"}[request.param])
    return net


@pytest.fixture(scope="module")
def pruned(dense: nn.Module) -> Pruned:
    return prune_model(dense, IMGSZ, keep_macs=0.4, align=ALIGN, max_pruned=0.9)


def split_copy(model: nn.Module) -> nn.Module:
    work = deepcopy(model).requires_grad_(True)
    split_blocks(work)
    return work


def masked(dense: nn.Module, pruned: Pruned) -> nn.Module:
    """The dense net, whose removed channels give 0: SiLU(0 * x + 0)."""
    work = split_copy(dense)
    groups = {group.root: group for group in DependencyGraph(work).groups([])}
    modules = dict(work.named_modules())
    for root, channels in pruned.plan.removed.items():
        for member in groups[root].members:
            if member.side == "out":
                gone = member.positions[torch.isin(member.channels, torch.tensor(channels))]
                norm = modules[member.conv.removesuffix(".conv") + ".bn"]
                norm.weight.data[gone] = 0.0
                norm.bias.data[gone] = 0.0
    return work


def test_the_pruned_net_computes_what_the_dense_one_does_without_the_channels(
    dense: nn.Module, pruned: Pruned, images: Tensor
) -> None:
    expected = output_of(masked(dense, pruned), images)
    assert (output_of(dense, images) - expected).abs().max() > 1e-2  # the mask does something
    assert (output_of(pruned.model, images) - expected).abs().max() < 1e-4


def test_macs_are_what_the_plan_says(dense: nn.Module, pruned: Pruned) -> None:
    assert count_macs(dense, IMGSZ) == pruned.plan.macs_before
    assert count_macs(pruned.model, IMGSZ) == pruned.plan.macs_after
    assert pruned.plan.macs_after / pruned.plan.macs_before == pytest.approx(0.4, abs=0.004)


def test_every_width_is_a_multiple_of_align(pruned: Pruned) -> None:
    outputs = {*head_outputs(pruned.model), *dfl_convs(pruned.model)}
    odd = {
        name: width
        for name, width in conv_widths(pruned.model).items()
        if width % ALIGN and name not in outputs
    }
    assert odd == {}


def test_no_layer_loses_more_than_the_cap(dense: nn.Module) -> None:
    capped = prune_model(dense, IMGSZ, keep_macs=0.5, align=ALIGN, max_pruned=0.5).model
    before = conv_widths(dense)
    assert all(width >= before[name] / 2 for name, width in conv_widths(capped).items())


def test_the_result_is_made_of_the_parents_classes(dense: nn.Module, pruned: Pruned) -> None:
    kinds = {name: type(module) for name, module in dense.named_modules()}
    assert {name: type(module) for name, module in pruned.model.named_modules()} == kinds
    for block in pruned.model.modules():
        if isinstance(block, C2f):
            assert block.cv1.conv.out_channels == 2 * block.c


def test_the_parent_is_left_alone(net: nn.Module, images: Tensor) -> None:
    before, shapes = output_of(net, images), conv_widths(net)
    prune_model(net, IMGSZ, keep_macs=0.5, align=ALIGN, max_pruned=0.9)
    assert torch.equal(output_of(net, images), before)
    assert conv_widths(net) == shapes
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_pruning_twice_gives_the_same_net(net: nn.Module) -> None:
    first, second = (
        prune_model(deepcopy(net), IMGSZ, keep_macs=0.5, align=ALIGN, max_pruned=0.9)
        for _ in range(2)
    )
    assert first.plan.removed == second.plan.removed
    weights = second.model.state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in first.model.state_dict().items())


def test_a_pruned_net_can_be_pruned_again(pruned: Pruned, images: Tensor) -> None:
    again = prune_model(pruned.model, IMGSZ, keep_macs=0.7, align=ALIGN, max_pruned=0.9)
    assert again.plan.macs_before == pruned.plan.macs_after
    expected = output_of(masked(pruned.model, again), images)
    assert (output_of(again.model, images) - expected).abs().max() < 1e-4


def test_channels_that_do_nothing_go_first(net: nn.Module) -> None:
    idle = [1, 2, 5, 6]
    net.model[3].conv.weight.data[idle] = 0.0
    for reader in (net.model[4].cv1.conv,):
        reader.weight.data[:, idle] = 0.0
    plan = prune_model(net, IMGSZ, keep_macs=0.9, align=ALIGN, max_pruned=0.9).plan
    assert set(plan.removed["model.3.conv"]) == set(idle)


def test_splitting_and_joining_c2f_changes_nothing(net: nn.Module, images: Tensor) -> None:
    work = split_copy(net)
    assert any(isinstance(module, SplitC2f) for module in work.modules())
    assert (output_of(work, images) - output_of(net, images)).abs().max() == 0.0
    join_blocks(work, deepcopy(net))
    assert not any(isinstance(module, SplitC2f) for module in work.modules())
    assert (output_of(work, images) - output_of(net, images)).abs().max() == 0.0
    weights = net.state_dict()
    assert work.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in work.state_dict().items())


def test_split_blocks_train_like_c2f(net: nn.Module, images: Tensor) -> None:
    work = split_copy(net).train()
    net.train()
    with torch.no_grad():
        ours, theirs = work(images)["scores"], net(images)["scores"]
    assert torch.allclose(ours, theirs, atol=1e-5)
    half, whole = work.model[2].second.bn, net.model[2].cv1.bn
    assert torch.allclose(half.running_var, whole.running_var[whole.num_features // 2 :])


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("model.4", "model.4."),
        ("model.6.cv1", "model.6.cv1."),
        ("model.?.conv", "model.7.conv"),
        ("*.m.0.cv2", "model.4.m.0.cv2."),  # added to half of cv1, which must stay whole too
        ("*.m.0.cv2.conv", "model.12.m.0.cv2."),
    ],
)
def test_ignored_layers_keep_their_outputs(pattern: str, kept: str, net: nn.Module) -> None:
    model = prune_model(net, IMGSZ, 0.35, ALIGN, 0.9, ignore=[pattern]).model
    before, after = conv_widths(net), conv_widths(model)
    same = [name for name in before if name.startswith(kept)]
    assert same
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after != before


def test_outputs_of_the_head_keep_their_width(net: nn.Module) -> None:
    before = conv_widths(net)
    after = conv_widths(prune_model(net, IMGSZ, 0.1, ALIGN, 0.95).model)
    for name in (*head_outputs(net), *dfl_convs(net)):
        assert after[name] == before[name]


def test_a_pattern_that_matches_nothing_is_named(net: nn.Module) -> None:
    with pytest.raises(CompressError, match=r"'model\.99\.\*' matches no layer"):
        prune_model(net, IMGSZ, 0.5, ALIGN, 0.9, ignore=["model.99.*"])


@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo12n.yaml", "yolov9t.yaml"])
def test_an_architecture_that_cannot_be_pruned_is_named_at_once(name: str) -> None:
    model = build_model(Path(name), NAMES, seed=0)
    start = time.monotonic()
    with pytest.raises(CompressError, match=r"cannot be pruned yet .* Its blocks: ") as caught:
        prune_model(model, IMGSZ, 0.5, 8, 0.9)
    assert time.monotonic() - start < 20
    assert "C2f" in str(caught.value)
