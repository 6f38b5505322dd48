"""Activations swapped on ultralytics' own blocks: what changes, and that it lasts."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from slow import slow
from small_nets import IMGSZ, pruned_copy
from task_nets import write_task_yaml
from torch import Tensor, nn
from torch.nn import functional
from ultralytics import YOLO
from ultralytics.nn.modules import Conv

from compress.errors import CompressError
from compress.models.activations import (
    ACTIVATIONS,
    activations_of,
    exported_block,
    set_activations,
    silu_blocks,
    with_activation,
)
from compress.models.build import build_model
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.exportable import exportable, fused_copy
from compress.models.inspect import count_macs, count_params
from compress.models.tasks import TASKS
from compress.prune.spec import build_from_spec, spec_of
from compress.prune.structure import PrunableModel

# between them they have every kind of block: RepConv, RepVGGDW, DWConv, area attention, two heads
FAMILIES = ("yolov9t", "yolov10n", "yolo12n", "yolo26n-pose", "yolo11n-cls")
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hardswish": functional.hardswish,
}


def outputs(model: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        found = model.eval()(image)
    while not isinstance(found, Tensor):
        found = found[0]
    return found


def family_net(name: str) -> nn.Module:
    ending = name.rpartition("-")[2]
    task = {"seg": "segment", "pose": "pose", "obb": "obb", "cls": "classify"}.get(ending, "detect")
    net: nn.Module = TASKS[task].model(f"{name}.yaml", verbose=False)
    return net.eval()


def activation_modules(model: nn.Module) -> set[type[nn.Module]]:
    return {type(block.act) for block in model.modules() if hasattr(block, "act")} - {nn.Identity}


@pytest.mark.parametrize("to", _FUNCTIONS)
def test_a_block_computes_the_new_function_of_the_same_sum(
    to: str, net: nn.Module, images: Tensor
) -> None:
    block = net.model[0]
    before = block.bn(block.conv(images))
    swapped = with_activation(net, ["model.0"], to).model[0]
    assert torch.equal(swapped(images), _FUNCTIONS[to](before))
    assert torch.equal(net.model[0](images), functional.silu(before))


def test_only_the_named_blocks_change_though_all_share_one_object(net: nn.Module) -> None:
    shared = net.model[0].act
    assert all(block.act is shared for block in (net.model[1], net.model[3]))
    blocks = silu_blocks(net)
    swapped = with_activation(net, blocks[3:5], "relu")
    changed = {n for n, kind in activations_of(swapped).items() if kind != "silu"}
    assert changed == set(blocks[3:5])
    assert activations_of(net) == dict.fromkeys(blocks, "silu")
    assert type(Conv.default_act) is nn.SiLU


@pytest.mark.parametrize("family", [FAMILIES[0], *slow(*FAMILIES[1:])])
def test_every_block_of_every_family_is_found_and_runs(family: str, tmp_path: Path) -> None:
    net = family_net(family)
    assert activation_modules(net) == {nn.SiLU}
    swapped = with_activation(net, silu_blocks(net), "relu")
    assert activation_modules(swapped) == {nn.ReLU}
    assert activation_modules(fused_copy(swapped)) == {nn.ReLU}
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = outputs(swapped, image)
    assert torch.isfinite(expected).all()
    save_checkpoint(swapped, tmp_path / "model.pt")
    loaded = YOLO(tmp_path / "model.pt").model.float()
    assert activation_modules(loaded) == {nn.ReLU}
    assert torch.equal(outputs(loaded, image), expected)


def test_what_is_saved_are_modules_of_torch(net: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    save_checkpoint(with_activation(net, silu_blocks(net), "hardswish"), file)
    content = file.read_bytes()
    assert b"torch.nn.modules.activation\nHardswish" in content
    assert b"compress" not in content


@pytest.mark.parametrize("part", ["all", "some"])
def test_pruning_keeps_what_each_block_has(net: nn.Module, images: Tensor, part: str) -> None:
    blocks = silu_blocks(net, ["*"] if part == "all" else ["model.4", "model.22.cv2"])
    swapped = with_activation(net, blocks, "relu6")
    whole = PrunableModel(swapped)
    assert torch.allclose(outputs(whole.plain(), images), outputs(swapped, images), atol=1e-5)
    pruned = pruned_copy(swapped, 0.6)
    assert activations_of(pruned) == activations_of(swapped)
    rebuilt = build_from_spec(json.loads(json.dumps(spec_of(pruned))))
    rebuilt.load_state_dict(pruned.state_dict())
    assert torch.equal(outputs(rebuilt, images), outputs(pruned, images))


def test_a_spec_with_strange_activations_is_refused(net: nn.Module) -> None:
    spec = spec_of(with_activation(net, ["model.0"], "relu"))
    assert spec["activations"] == {"model.0": "relu"}
    with pytest.raises(CompressError, match=r"model spec: .*'model\.99'"):
        build_from_spec({**spec, "activations": {"model.99": "relu"}})
    with pytest.raises(CompressError, match=r"model spec: `activations"):
        build_from_spec({**spec, "activations": {"model.0": "os.system"}})


@pytest.mark.parametrize("some", [True, False])
def test_weights_for_other_classes_keep_it(net: nn.Module, tmp_path: Path, some: bool) -> None:
    blocks = silu_blocks(net)[:7] if some else silu_blocks(net)
    file = tmp_path / "model.pt"
    save_checkpoint(with_activation(net, blocks, "relu"), file)
    other = build_model(file, {0: "cat", 1: "dog"}, seed=0)
    assert activations_of(other) == activations_of(load_checkpoint(file))


def test_stock_training_would_build_the_same_activations(net: nn.Module) -> None:
    """Ultralytics trains a model that it builds anew from the yaml inside the checkpoint."""
    every = with_activation(net, silu_blocks(net), "relu")
    anew = type(net)(deepcopy(every.yaml), verbose=False)
    assert activation_modules(anew) == {nn.ReLU}
    assert type(Conv.default_act) is nn.SiLU
    assert "activation" not in with_activation(net, ["model.0"], "relu").yaml
    assert "activation" not in net.yaml


def test_patterns_choose_blocks(net: nn.Module) -> None:
    blocks = silu_blocks(net)
    assert silu_blocks(net, ["model.2"]) == [n for n in blocks if n.startswith("model.2.")]
    assert silu_blocks(net, ["*.cv1"], ["model.2", "model.9"]) == [
        n for n in blocks if n.endswith(".cv1") and not n.startswith(("model.2.", "model.9."))
    ]
    with pytest.raises(CompressError, match=r"`layers`: 'modle\.2' .*model\.0.*model\.22"):
        silu_blocks(net, ["modle.2"])
    with pytest.raises(CompressError, match=r"`ignore`: 'model\.22\.dfl'"):
        silu_blocks(net, ["*"], ["model.22.dfl"])
    with pytest.raises(CompressError, match="nothing is left"):
        silu_blocks(net, ["model.2"], ["model.2.*"])
    with pytest.raises(CompressError, match=r"no block of the model has a SiLU.*relu"):
        silu_blocks(with_activation(net, blocks, "relu"))
    with pytest.raises(CompressError, match=r"no block 'model\.2'"):
        set_activations(net, {"model.2": "relu"})


@pytest.mark.parametrize("head", ["Detect", "v10Detect", "Pose26"])
def test_branches_that_only_training_uses_have_a_twin_in_the_exported_net(
    head: str, tmp_path: Path
) -> None:
    model = build_model(write_task_yaml(tmp_path / "net.yaml", head), {0: "a", 1: "b"}, 0)
    blocks = silu_blocks(model)
    exported = {exported_block(model, name) for name in blocks}
    assert exported == set(activations_of(exportable(model)))
    assert (exported < set(blocks)) == (head != "Detect")


def test_macs_and_parameters_stay(net: nn.Module) -> None:
    for to in ACTIVATIONS:
        swapped = with_activation(net, silu_blocks(net), to)
        assert count_macs(swapped, IMGSZ) == count_macs(net, IMGSZ)
        assert count_params(swapped) == count_params(net)
