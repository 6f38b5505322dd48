"""Which layer learns from which: by stride, by number, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lessons import CPU
from small_nets import IMGSZ, NAMES, pruned_copy
from torch import Tensor, nn

from compress.distill.layers import match_layers
from compress.distill.taps import Taps, probe_shapes
from compress.errors import CompressError
from compress.models.build import build_model
from compress.models.inspect import head_branches, neck_layers


@pytest.fixture(scope="module")
def p6() -> nn.Module:
    return build_model(Path("yolov8n-p6.yaml"), NAMES, seed=0)


def names(pairs) -> list[tuple[str, str]]:
    return [(pair.student, pair.teacher) for pair in pairs]


def match(student: nn.Module, teacher: nn.Module, at="neck", teacher_at=None, levels=None):
    return match_layers(student, teacher, at, teacher_at, levels, IMGSZ, CPU)


def test_the_neck_is_matched_by_stride_and_not_by_index(net: nn.Module, p6: nn.Module) -> None:
    pairs = match(net, p6)
    ours, theirs = neck_layers(net), neck_layers(p6)
    assert names(pairs) == [(ours[stride], theirs[stride]) for stride in (8, 16, 32)]
    assert [pair.stride for pair in pairs] == [8, 16, 32]


def test_widths_are_those_of_the_nets_at_hand(net: nn.Module) -> None:
    pruned = pruned_copy(net, 0.4)
    for pair in match(pruned, net):
        for model, layer, width in (
            (pruned, pair.student, pair.student_width),
            (net, pair.teacher, pair.teacher_width),
        ):
            assert probe_shapes(model, [layer], IMGSZ, CPU)[layer][0] == width
    assert any(pair.student_width < pair.teacher_width for pair in match(pruned, net))


def test_the_backbone_gives_the_last_layer_of_each_stride(net: nn.Module) -> None:
    pairs = match(net, net, "backbone")
    assert names(pairs) == [(f"model.{i}", f"model.{i}") for i in (0, 2, 4, 6, 9)]
    assert [pair.stride for pair in pairs] == [2, 4, 8, 16, 32]


def test_layers_by_number_and_name(net: nn.Module, p6: nn.Module) -> None:
    pairs = match(net, p6, (4, "model.6.cv2"), ("model.4", "model.6"))
    assert names(pairs) == [("model.4", "model.4"), ("model.6.cv2", "model.6")]


def test_levels_keep_some_strides(net: nn.Module) -> None:
    assert [pair.stride for pair in match(net, net, levels=[16])] == [16]


@pytest.mark.parametrize(
    ("at", "teacher_at", "levels", "words"),
    [
        ((99,), None, None, r"student has no layer 'model\.99'"),
        (("model.4",), ("modl.4",), None, r"teacher has no layer 'modl\.4'.*Did you mean model\.4"),
        (("model.4",), ("model.6",), None, r"stride 8.*'model\.6' has 16"),
        ((22,), None, None, "gives no map"),
        ("neck", None, [4], r"levels` names \[4\].* \[8, 16, 32\]"),
    ],
)
def test_what_cannot_be_matched_is_refused(
    at, teacher_at, levels, words: str, net: nn.Module
) -> None:
    with pytest.raises(CompressError, match=words):
        match(net, net, at, teacher_at, levels)


def test_nets_without_a_common_stride_are_refused(net: nn.Module, p6: nn.Module) -> None:
    p6.model[-1].stride = torch.tensor([128.0, 256.0, 512.0, 1024.0])
    with pytest.raises(CompressError, match=r"no stride .*\[8, 16, 32\].*\[128, 256, 512, 1024\]"):
        match(net, p6)
    p6.model[-1].stride = torch.tensor([8.0, 16.0, 32.0, 64.0])


def test_branches_of_the_head_end_in_bare_convolutions(net: nn.Module) -> None:
    branches = head_branches(net)
    assert list(branches) == [8, 16, 32]
    modules = dict(net.named_modules())
    for boxes, classes in branches.values():
        assert boxes.last.out_channels == 64
        assert classes.last.out_channels == len(NAMES)
        assert hasattr(modules[boxes.hidden], "conv")


def test_taps_leave_the_mode_of_a_model_and_remove_their_hooks(net: nn.Module) -> None:
    layers = list(neck_layers(net).values())
    net.train()
    assert probe_shapes(net, layers, IMGSZ, CPU).keys() == set(layers)
    assert net.training
    assert not hooked(net)
    with pytest.raises(RuntimeError):
        probe_shapes(net, layers, IMGSZ + 3, CPU)  # no size that the strides divide
    assert net.training
    assert not hooked(net)


def test_taps_keep_the_last_features_and_forget_them(net: nn.Module, images: Tensor) -> None:
    taps = Taps(net, ["model.0", "model.0"])
    net(images[:2])
    net(images[:1])
    assert taps.features["model.0"].shape[0] == 1
    taps.close()
    assert taps.features == {}
    assert not hooked(net)


def hooked(model: nn.Module) -> bool:
    return any(module._forward_hooks for module in model.modules())
