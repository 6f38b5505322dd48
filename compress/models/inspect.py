"""Look into a YOLO model: its head, its size, its cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from ultralytics.nn.modules import DFL, Classify, Detect, RepConv
from ultralytics.nn.modules.block import RepVGGDW

from compress.errors import CompressError
from compress.models.heads import HeadFacts
from compress.models.tasks import keypoint_shape, task_of

COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_TWIN = "one2one_"  # branches of end-to-end heads: what is exported of them


@dataclass(frozen=True)
class ConvCost:
    """One convolution or linear layer.

    ``positions`` is how often each filter is applied to one image: output height x width, of a
    transposed convolution input height x width, of a linear layer the number of vectors. It is 0
    where the exported model does without the layer.
    """

    kernel: int
    depthwise: bool
    positions: int

    def macs(self, inputs: int, outputs: int) -> int:
        """Multiply-accumulates of one image; ``inputs`` are the channels each filter sees."""
        return self.kernel * (1 if self.depthwise else inputs) * outputs * self.positions


def model_head(model: nn.Module) -> Detect | Classify:
    """The model's last layer, of any task.

    Raises:
        CompressError: if it is no head of a known task.
    """
    task_of(model)
    return model.model[-1] if hasattr(model, "model") else model


def detect_head(model: nn.Module) -> Detect:
    """The head that predicts on a pyramid: boxes, with masks, keypoints or angles.

    Raises:
        CompressError: if the model has none.
    """
    head = model_head(model)
    if not isinstance(head, Detect):
        raise CompressError(
            f"The model's last layer is {type(head).__name__}: it has no boxes. Give a model for "
            "detection, segmentation, pose or oriented boxes, such as yolov8n."
        )
    return head


def head_facts(model: nn.Module) -> HeadFacts:
    """Task, kind and keypoints of the model's head.

    Raises:
        CompressError: if it is no head of a known task.
    """
    return HeadFacts(task_of(model).name, is_end_to_end(model), keypoint_shape(model))


def is_end_to_end(model: nn.Module) -> bool:
    """Whether the head can predict without non-maximum suppression (YOLOv10, YOLO26).

    Such a model is validated and exported that way: ultralytics' ``nms=False``.
    """
    return getattr(model_head(model), f"{_TWIN}cv2", None) is not None


def neck_layers(model: nn.Module) -> dict[int, str]:
    """Stride -> name of the layer that feeds the head at that stride (P3, P4, P5 ...)."""
    head = detect_head(model)
    strides = [int(stride) for stride in head.stride]
    return {stride: f"model.{index}" for stride, index in zip(strides, head.f, strict=True)}


@dataclass(frozen=True)
class HeadBranch:
    """The end of one branch of a head at one level: ``last`` turns ``hidden``'s map into logits."""

    hidden: str
    last: nn.Conv2d


def head_branches(model: nn.Module) -> dict[int, tuple[HeadBranch, HeadBranch]]:
    """Stride -> the ends of the box branch and of the class branch.

    Of an end-to-end head the one-to-many branches.
    """
    head = detect_head(model)
    prefix = next(name for name, module in model.named_modules() if module is head)
    strides = [int(stride) for stride in head.stride]

    def end(branch: str, level: int) -> HeadBranch:
        layers = getattr(head, branch)[level]
        return HeadBranch(f"{prefix}.{branch}.{level}.{len(layers) - 2}", layers[-1])

    return {stride: (end("cv2", i), end("cv3", i)) for i, stride in enumerate(strides)}


def backbone_layers(model: nn.Module) -> list[str]:
    """Names of the layers that the model's yaml counts as its backbone, in order."""
    return [f"model.{index}" for index in range(len(model.yaml["backbone"]))]


def head_outputs(model: nn.Module) -> list[str]:
    """Names of the head's layers whose outputs have a meaning, so that their width is fixed.

    Boxes, classes, mask coefficients, keypoints, angles, and their one-to-one twins; the mask
    prototypes, their semantic classes; of a classifier its linear layer.
    """
    head = model_head(model)
    prefix = next(name for name, module in model.named_modules() if module is head)
    if isinstance(head, Classify):
        return [f"{prefix}.linear"]
    names = []
    for branch, levels in head.named_children():
        for level, layers in enumerate(levels if isinstance(levels, nn.ModuleList) else ()):
            name = _last_bare_conv(layers)
            names += [] if name is None else [f"{prefix}.{branch}.{level}{name}"]
    proto = getattr(head, "proto", None)
    if proto is not None:
        names.append(f"{prefix}.proto.cv3.conv")
        name = _last_bare_conv(getattr(proto, "semseg", None))
        names += [] if name is None else [f"{prefix}.proto.semseg{name}"]
    return names


def _last_bare_conv(layers: nn.Module | None) -> str | None:
    """Where a branch ends: "" for itself, ".2" for its third layer; None for inner branches."""
    if isinstance(layers, nn.Conv2d):
        return ""
    if isinstance(layers, nn.Sequential) and isinstance(layers[-1], nn.Conv2d):
        return f".{len(layers) - 1}"
    return None


def dfl_convs(model: nn.Module) -> list[str]:
    """Names of the convolutions that turn bins into distances: fixed weights."""
    return [f"{name}.conv" for name, module in model.named_modules() if isinstance(module, DFL)]


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def filter_shape(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> tuple[int, int]:
    """Channels that each filter of a convolution or linear layer sees, and how many there are."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels // layer.groups, layer.out_channels


def conv_costs(model: nn.Module, imgsz: int) -> dict[str, ConvCost]:
    """Name -> cost of every convolution and linear layer on one image of ``imgsz`` squared.

    Counted is what the exported model runs: layers that only training uses, or that are folded
    into another one (the second branch of a RepConv), cost nothing.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, COUNTED)}
    positions = dict.fromkeys(layers, 0)

    def record(name: str, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        layer = layers[name]
        if isinstance(layer, nn.Linear):
            positions[name] += output.numel() // layer.out_features
        else:
            grid = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
            positions[name] += grid.shape[-2] * grid.shape[-1]

    handles = [
        layer.register_forward_hook(lambda _, x, out, name=name: record(name, x, out))
        for name, layer in layers.items()
    ]
    device = next(model.parameters()).device
    try:
        with _eval_mode(model), torch.no_grad():
            model(torch.zeros(1, 3, imgsz, imgsz, device=device))
    finally:
        for handle in handles:
            handle.remove()
    for name in _not_exported(model, layers):
        positions[name] = 0
    return {name: _cost(layer, positions[name]) for name, layer in layers.items()}


def _cost(layer: nn.Module, positions: int) -> ConvCost:
    if isinstance(layer, nn.Linear):
        return ConvCost(1, False, positions)
    depthwise = layer.groups > 1 and layer.groups == layer.in_channels
    return ConvCost(layer.kernel_size[0] * layer.kernel_size[1], depthwise, positions)


def _not_exported(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that disappear when the model is fused."""
    gone = []
    for name, module in model.named_modules():
        if isinstance(module, RepConv):
            gone.append(f"{name}.conv2.")
        elif isinstance(module, RepVGGDW):
            gone.append(f"{name}.conv1.")
        elif isinstance(module, Detect):
            twins = [child for child, _ in module.named_children() if child.startswith(_TWIN)]
            gone += [f"{name}.{twin.removeprefix(_TWIN)}." for twin in twins]
    return [name for name in names if name.startswith(tuple(gone))]


def count_macs(model: nn.Module, imgsz: int) -> int:
    """Multiply-accumulates of one image of ``imgsz`` pixels squared, as exported.

    Of all convolutions and linear layers; products inside attention are left out.
    """
    modules = dict(model.named_modules())
    return sum(
        cost.macs(*filter_shape(modules[name])) for name, cost in conv_costs(model, imgsz).items()
    )


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def conv_widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution, by name."""
    return {
        name: module.out_channels
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    }
