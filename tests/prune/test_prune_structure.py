"""Every family: the pruned net is the dense one without the channels, in stock modules."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from slow import slow_if
from structure_nets import (
    FAMILIES,
    cut_at_random,
    family_net,
    largest_difference,
    masked,
    raw_outputs,
)
from torch import Tensor, nn
from ultralytics.nn.modules.block import AAttn, Attention

from compress.errors import CompressError
from compress.models.blocks.expanded import Expanded
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.inspect import conv_widths, dfl_convs, head_outputs
from compress.prune.spec import build_from_spec, spec_of
from compress.prune.structure import PrunableModel

ALIGN = 4
SLOW = {"yolov3-tiny", "yolov6n", "yolov10n", "yolo26n-pose"}
IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Cut:
    dense: nn.Module
    structure: PrunableModel
    removed: dict[str, list[int]]
    pruned: nn.Module
    outputs: list[Tensor]  # of the pruned net


@pytest.fixture(
    scope="module",
    params=slow_if(SLOW, FAMILIES),
)
def cut(request: pytest.FixtureRequest) -> Cut:
    dense = family_net(request.param, IMAGE)
    structure = PrunableModel(dense)
    removed = cut_at_random(structure, ALIGN)
    pruned = structure.plain()
    return Cut(dense, structure, removed, pruned, raw_outputs(pruned, IMAGE))


def test_the_pruned_net_computes_what_the_dense_one_does_without_the_channels(cut: Cut) -> None:
    dense = raw_outputs(cut.dense, IMAGE)
    assert largest_difference(raw_outputs(cut.structure.work, IMAGE), dense) < 1e-4
    expected = raw_outputs(masked(cut.structure, cut.removed), IMAGE)
    assert largest_difference(expected, dense) > 1e-2  # the mask does something
    assert largest_difference(cut.outputs, expected) < 1e-4


def test_every_layer_but_the_outputs_is_cut_and_aligned(cut: Cut) -> None:
    before, after = conv_widths(cut.dense), conv_widths(cut.pruned)
    outputs = {*head_outputs(cut.pruned), *dfl_convs(cut.pruned)}
    wrong = {
        name: (before[name], width)
        for name, width in after.items()
        if (width != before[name] if name in outputs else width % ALIGN or width >= before[name])
    }
    assert wrong == {}
    assert cut.structure.left_whole == {}


def test_only_stock_classes_come_out_and_the_parent_is_left_alone(cut: Cut) -> None:
    kinds = {name: type(module) for name, module in cut.dense.named_modules()}
    assert {name: type(module) for name, module in cut.pruned.named_modules()} == kinds
    assert not any(isinstance(module, Expanded) for module in cut.pruned.modules())
    assert not any(parameter.requires_grad for parameter in cut.dense.parameters())


def test_checkpoint_copy_and_training_forward_work(cut: Cut, tmp_path: Path) -> None:
    save_checkpoint(cut.pruned, tmp_path / "pruned.pt")
    loaded = load_checkpoint(tmp_path / "pruned.pt")
    assert largest_difference(raw_outputs(loaded, IMAGE), cut.outputs) == 0.0
    assert largest_difference(raw_outputs(deepcopy(cut.pruned), IMAGE), cut.outputs) == 0.0
    deepcopy(cut.pruned).train()(IMAGE)  # branches that only training has


def test_fusing_keeps_the_function(cut: Cut) -> None:
    net = deepcopy(cut.pruned)
    before = _decoded(net)
    after = _decoded(net.fuse(verbose=False))
    # scores alone: an end-to-end head orders by them
    assert torch.allclose(after.sort(-1).values, before.sort(-1).values, rtol=1e-4, atol=1e-3)


def _decoded(net: nn.Module) -> Tensor:
    with torch.no_grad():
        output = net.eval()(IMAGE)
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def test_a_spec_rebuilds_the_net_without_its_pickle(cut: Cut) -> None:
    rebuilt = build_from_spec(spec_of(cut.pruned))
    rebuilt.load_state_dict(cut.pruned.state_dict())
    assert largest_difference(raw_outputs(rebuilt, IMAGE), cut.outputs) == 0.0


@pytest.mark.parametrize("name", ["adown-cblinear", "scaled-residual"])
def test_a_pruned_net_can_be_pruned_again(name: str) -> None:
    first = PrunableModel(family_net(name, IMAGE))
    cut_at_random(first, ALIGN)
    structure = PrunableModel(first.plain())
    removed = cut_at_random(structure, ALIGN, share=0.25)
    expected = raw_outputs(masked(structure, removed), IMAGE)
    assert largest_difference(raw_outputs(structure.plain(), IMAGE), expected) < 1e-4


def test_weights_and_norms_are_those_of_the_expanded_net(cut: Cut) -> None:
    weights = cut.structure.weights_of(cut.dense)
    scales = cut.structure.norm_scales_of(cut.dense)
    layers = dict(cut.structure.work.named_modules())
    for name, weight in weights.items():
        layer = layers[name]
        transposed = isinstance(layer, nn.ConvTranspose2d)
        assert torch.equal(weight, layer.weight.transpose(0, 1) if transposed else layer.weight)
        if name in scales:
            assert torch.equal(scales[name], layers[name.rpartition(".")[0] + ".bn"].weight)
    assert len(scales) > len(weights) / 2


def test_attention_keeps_its_heads(cut: Cut) -> None:
    parents = dict(cut.dense.named_modules())
    for name, block in cut.pruned.named_modules():
        if isinstance(block, (AAttn, Attention)):
            assert block.num_heads == parents[name].num_heads
            assert block.head_dim < parents[name].head_dim
            assert block.head_dim * block.num_heads == block.proj.conv.in_channels


def test_tied_groups_must_lose_equally_many(net: nn.Module) -> None:
    structure = PrunableModel(net)
    unit = next(unit for unit in structure.units if len(unit.groups) == 2)
    structure.remove(unit.groups[0].root, [0, 1])
    with pytest.raises(ValueError, match="lose different numbers"):
        structure.plain()
    structure.remove(unit.groups[1].root, [2, 3])
    structure.plain()


def test_heads_of_an_attention_must_lose_equally_many() -> None:
    structure = PrunableModel(family_net("yolo12n", IMAGE))
    unit = next(unit for unit in structure.units if max(unit.parts) > 1)
    for group in unit.groups:
        structure.remove(group.root, range(unit.parts[0]))  # all of the first head
    with pytest.raises(ValueError, match=r"runs of .* lose different numbers"):
        structure.plain()


@pytest.mark.parametrize("pattern", ["model.2.cv1", "model.2.m.0.cv2.conv"])
def test_an_ignored_layer_keeps_all_that_is_tied_to_it(pattern: str, net: nn.Module) -> None:
    structure = PrunableModel(net, [pattern])
    cut_at_random(structure, ALIGN)
    before, after = conv_widths(net), conv_widths(structure.plain())
    assert after["model.2.cv1.conv"] == before["model.2.cv1.conv"]
    assert after["model.2.m.0.cv2.conv"] == before["model.2.m.0.cv2.conv"]
    assert after["model.2.cv2.conv"] < before["model.2.cv2.conv"]


def test_a_pattern_that_matches_nothing_is_named(net: nn.Module) -> None:
    with pytest.raises(CompressError, match=r"'model\.99\.\*' matches no layer"):
        PrunableModel(net, ["model.99.*"])


def test_blocks_that_cannot_be_followed_are_left_whole_and_named() -> None:
    dense = family_net("yolov8n-ghost", IMAGE)  # adds a map to two copies of a narrower one
    structure = PrunableModel(dense)
    assert "model.2" in structure.left_whole
    removed = cut_at_random(structure, ALIGN)
    image = IMAGE.double()  # values are large here: rounding of float32 would show
    expected = raw_outputs(masked(structure, removed).double(), image)
    assert largest_difference(raw_outputs(dense.double(), image), expected) > 1e-2
    assert largest_difference(raw_outputs(structure.plain().double(), image), expected) < 1e-9
