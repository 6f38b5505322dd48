"""Nets of every family for the tests of pruning, and the dense net that a pruned one must equal."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from math import lcm
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from compress.models.tasks import TASKS
from compress.prune.groups import ChannelGroup
from compress.prune.structure import PrunableModel

# blocks that only the large YOLOv9 and YOLO12 have, at a small width
_EXTRA: Mapping[str, str] = {
    "adown-cblinear": """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, RepNCSPELAN4, [32, 32, 16, 1]]
  - [-1, 1, ADown, [32]]
  - [-1, 1, RepNCSPELAN4, [64, 32, 16, 1]]
  - [2, 1, CBLinear, [[16]]]
  - [4, 1, CBLinear, [[16, 32]]]
  - [0, 1, Conv, [16, 3, 2]]
  - [[5, 6, -1], 1, CBFuse, [[0, 0]]]
  - [-1, 1, ELAN1, [32, 32, 16]]
  - [-1, 1, ADown, [32]] # 10
  - [[6, -1], 1, CBFuse, [[1]]]
  - [-1, 1, AConv, [32]]
  - [-1, 1, SPPELAN, [64, 32]]
head:
  - [[9, 13], 1, Detect, [nc]]
""",
    "scaled-residual": """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, A2C2f, [64, True, 4, True, 1.25]]
  - [-1, 1, C2, [32]]
  - [-1, 1, C2fPSA, [32]]
head:
  - [[2, 4], 1, Detect, [nc]]
""",
}
FAMILIES = (
    *("yolov3-tiny", "yolov6n", "yolov8n-cls", "yolov10n", "yolo12n"),
    *("yolo26n-seg", "yolo26n-pose"),
    *_EXTRA,
)


def family_net(name: str, image: Tensor) -> nn.Module:
    """A net with random weights in eval mode, whose BatchNorms differ and fit ``image``."""
    torch.manual_seed(0)
    known = _EXTRA.get(name)
    source: Any = f"{name}.yaml" if known is None else yaml.safe_load(known)
    ending = name.rpartition("-")[2]
    task = {"seg": "segment", "pose": "pose", "obb": "obb", "cls": "classify"}.get(ending, "detect")
    net: nn.Module = TASKS[task].model(source, verbose=False).eval()
    fitted = []
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.3)
            fitted.append(norm.register_forward_pre_hook(_fit))
    for block in net.modules():
        if getattr(block, "gamma", None) is not None:  # a hundredth at first: hardly there
            block.gamma.data.uniform_(0.5, 1.5)
    with torch.no_grad():
        net(image)
    for hook in fitted:
        hook.remove()
    return net.requires_grad_(False)


def _fit(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3), unbiased=False))


def raw_outputs(net: nn.Module, image: Tensor) -> list[Tensor]:
    """What the net computes, before an end-to-end head ranks it."""
    with torch.no_grad():
        output = net.eval()(image)
    if isinstance(output, tuple) and isinstance(output[-1], dict):
        others = output[0][1:] if isinstance(output[0], tuple) else ()
        return [*_tensors(output[-1]), *_tensors(others)]
    return _tensors(output)


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [t for key in sorted(output) if key != "feats" for t in _tensors(output[key])]
    return [tensor for part in output for tensor in _tensors(part)]


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def cut_at_random(structure: PrunableModel, align: int, share: float = 0.4) -> dict[str, list[int]]:
    """Remove aligned numbers of random channels from every unit; root -> what was removed."""
    draw = torch.Generator().manual_seed(1)
    removed = {}
    for unit in structure.units:
        step = lcm(align, *unit.parts)
        width = unit.groups[0].width
        kept = max(step, round(width * (1 - share) / step) * step)
        for group, parts in zip(unit.groups, unit.parts, strict=True):
            run = width // parts
            removed[group.root] = [
                part * run + channel
                for part in range(parts)
                for channel in torch.randperm(run, generator=draw)[
                    : (width - kept) // parts
                ].tolist()
            ]
            structure.remove(group.root, removed[group.root])
    return removed


def masked(structure: PrunableModel, removed: Mapping[str, list[int]]) -> nn.Module:
    """The expanded net, whose removed channels give 0 wherever they are computed."""
    work = deepcopy(structure.work).requires_grad_(False)
    layers = dict(work.named_modules())
    for unit in structure.units:
        for group in unit.groups:
            _silence(layers, group, torch.tensor(removed[group.root], dtype=torch.int64))
    return work


def _silence(layers: dict[str, nn.Module], group: ChannelGroup, channels: Tensor) -> None:
    for member in (*group.members, *group.followers):
        layer = layers[member.conv]
        gone = member.positions[torch.isin(member.channels, channels)]
        if member.side == "in":
            continue
        if isinstance(layer, nn.ConvTranspose2d):
            layer.weight[:, gone] = 0.0
        else:
            layer.weight[gone] = 0.0
        if layer.bias is not None:
            layer.bias[gone] = 0.0
