"""Look into a YOLO model: its head, its size, its cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from ultralytics.nn.modules import DFL, OBB, Detect, Pose, Segment

from compress.errors import CompressError


@dataclass(frozen=True)
class ConvCost:
    """One convolution. ``positions`` is output height x width at the image size asked for."""

    kernel: int
    depthwise: bool
    positions: int

    def macs(self, inputs: int, outputs: int) -> int:
        """Multiply-accumulates of one image; ``inputs`` are the channels each filter sees."""
        return self.kernel * (1 if self.depthwise else inputs) * outputs * self.positions


def detect_head(model: nn.Module) -> Detect:
    """The model's detection head.

    Raises:
        CompressError: if the model has none, or one for another task, or an end-to-end one.
    """
    head = model.model[-1] if hasattr(model, "model") else model
    what = type(head).__name__
    if not isinstance(head, Detect) or isinstance(head, (Segment, Pose, OBB)):
        raise CompressError(
            f"The model's last layer is {what}, not a plain detection head: only detection models "
            "can be compressed so far. Give a detection model, such as yolov8n."
        )
    if getattr(head, "one2one_cv2", None) is not None:
        raise CompressError(
            f"The model's head {what} is end-to-end (YOLOv10, YOLO26): such heads cannot be "
            "compressed yet. Give a model with a plain head, such as yolov8n."
        )
    return head


def neck_layers(model: nn.Module) -> dict[int, str]:
    """Stride -> name of the layer that feeds the head at that stride (P3, P4, P5 ...)."""
    head = detect_head(model)
    strides = [int(stride) for stride in head.stride]
    return {stride: f"model.{index}" for stride, index in zip(strides, head.f, strict=True)}


def head_outputs(model: nn.Module) -> list[str]:
    """Names of the head's last convolutions (boxes and classes): fixed in width."""
    head = detect_head(model)
    prefix = next(name for name, module in model.named_modules() if module is head)
    names = []
    for branch in ("cv2", "cv3", "one2one_cv2", "one2one_cv3"):
        for level, layers in enumerate(getattr(head, branch, None) or ()):
            names.append(f"{prefix}.{branch}.{level}.{len(layers) - 1}")
    return names


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


def conv_costs(model: nn.Module, imgsz: int) -> dict[str, ConvCost]:
    """Name -> cost of every convolution that runs on one square image of ``imgsz`` pixels."""
    costs: dict[str, ConvCost] = {}

    def record(name: str, conv: nn.Conv2d, output: torch.Tensor) -> None:
        kernel = conv.kernel_size[0] * conv.kernel_size[1]
        depthwise = conv.groups > 1 and conv.groups == conv.in_channels
        costs[name] = ConvCost(kernel, depthwise, output.shape[-2] * output.shape[-1])

    handles = [
        module.register_forward_hook(lambda m, _, out, name=name: record(name, m, out))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    device = next(model.parameters()).device
    try:
        with _eval_mode(model), torch.no_grad():
            model(torch.zeros(1, 3, imgsz, imgsz, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return costs


def count_macs(model: nn.Module, imgsz: int) -> int:
    """Multiply-accumulates of all convolutions for one image of ``imgsz`` pixels squared."""
    modules = dict(model.named_modules())
    return sum(
        cost.macs(modules[name].weight.shape[1], modules[name].weight.shape[0])
        for name, cost in conv_costs(model, imgsz).items()
    )


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def conv_widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution, by name."""
    return {
        name: module.out_channels
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
