"""Make a fused PyTorch model compute what the INT8 graph will compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import CompressError
from compress.quantize.fake_quantizer import FakeQuantizer, quantize_weight
from export.placement import Placement, Point
from export.ranges import GroupRange, Ranges

QUANTIZERS = "quantizers"  # submodule of the model while it is simulated
_FIXED = {"Input": (0.0, 1.0), "Sigmoid": (0.0, 1.0)}  # ranges known without calibration


class PointHook:
    """What happens to the tensor of one point: nothing, observed, or rounded."""

    def __init__(self, quantizer: FakeQuantizer) -> None:
        self.quantizer = quantizer
        self.observe: Callable[[Tensor], None] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Observe or round ``x``."""
        if self.observe is not None:
            self.observe(x.detach())
            return x
        return self.quantizer(x)


class _Keep:
    """A point that the graph does not quantize."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


class _QuantizedConv:
    """Stands in for the forward of a fused ``Conv``: conv -> activation, rounded at each point."""

    def __init__(self, block: nn.Module, points: dict[str, PointHook], int8_weight: bool) -> None:
        self.block = block
        self.points = points
        self.int8_weight = int8_weight
        self.keep = _Keep()
        behind = [hook for operator, hook in points.items() if operator != "Conv"]
        self.result = behind[-1] if behind else self.keep

    def __call__(self, x: Tensor) -> Tensor:
        conv = self.block.conv
        weight = quantize_weight(conv.weight) if self.int8_weight else conv.weight
        y = F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        y = self._at("Conv")(y)
        if isinstance(self.block.act, nn.SiLU):
            return self._at("Mul")(y * self._at("Sigmoid")(torch.sigmoid(y)))
        return self.result(self.block.act(y))

    def _at(self, operator: str) -> Callable[[Tensor], Tensor]:
        return self.points.get(operator, self.keep)


def _is_block(module: nn.Module | None) -> bool:
    """Whether this is ultralytics' Conv, or made like it: ``act(conv(x))``."""
    return isinstance(getattr(module, "conv", None), nn.Conv2d) and hasattr(module, "act")


class _QuantizedOutput:
    """Forward hook: the module's output is a point (a residual sum, say)."""

    def __init__(self, point: PointHook) -> None:
        self.point = point

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return self.point(output)


class _QuantizedInput:
    """Forward pre-hook of the first layer: the image is a point."""

    def __init__(self, point: PointHook) -> None:
        self.point = point

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.point(inputs[0]), *inputs[1:])


class Simulation:
    """Fake quantization on a fused model, put on in place and taken off by ``remove``.

    While it is on, the quantizers are a submodule, so their scales are trained, averaged and saved
    with the model's weights. Everything is made of plain classes and can be copied.
    """

    def __init__(self, model: nn.Module, placement: Placement) -> None:
        """``model`` must be fused (``models.exportable.fused_copy``).

        Raises:
            CompressError: if a point of the graph has no counterpart among the modules.
        """
        self.model = model
        self.placement = placement
        self.quantizers = nn.ModuleList(FakeQuantizer() for _ in placement.groups)
        self.points: list[list[tuple[Point, PointHook]]] = [
            [(point, PointHook(quantizer)) for point in group.points]
            for group, quantizer in zip(placement.groups, self.quantizers, strict=True)
        ]
        self._handles: list[Any] = []
        self._blocks: dict[str, Any] = {}
        self._attach()

    def _attach(self) -> None:
        setattr(self.model, QUANTIZERS, self.quantizers)
        modules = dict(self.model.named_modules())
        by_block: dict[str, dict[str, PointHook]] = {}
        for point, hook in (pair for group in self.points for pair in group):
            if point.operator == "Input":
                self._hook_input(hook)
            elif _is_block(modules.get(point.module)):
                by_block.setdefault(point.module, {})[point.operator] = hook
            elif point.module in modules:
                output = _QuantizedOutput(hook)
                self._handles.append(modules[point.module].register_forward_hook(output))
            else:
                raise CompressError(
                    f"quantize: the graph computes '{point.tensor}' ({point.operator}), but the "
                    "model has no module of that name. List it under `float_layers`."
                )
        int8 = {name.removesuffix(".conv") for name in self.placement.convs}
        for name in sorted(by_block.keys() | int8):
            block = modules[name]
            if not _is_block(block):
                raise CompressError(
                    f"quantize: '{name}' is a convolution outside of a Conv block, whose weights "
                    "cannot be simulated yet. List it under `float_layers`."
                )
            self._blocks[name] = block.forward
            block.forward = _QuantizedConv(block, by_block.get(name, {}), name in int8)

    def _hook_input(self, hook: PointHook) -> None:
        first = self.model.model[0]
        self._handles.append(first.register_forward_pre_hook(_QuantizedInput(hook)))

    def fixed_range(self, group: Sequence[tuple[Point, PointHook]]) -> tuple[float, float] | None:
        """The range of a group that needs no calibration, if it is one."""
        kinds = {point.operator for point, _ in group}
        return _FIXED.get(kinds.pop()) if len(kinds) == 1 else None

    def ranges(self, target: str, clipped: Sequence[float]) -> Ranges:
        """The present scales and zero points as a ranges file."""
        groups = tuple(
            GroupRange(
                float(quantizer.scale.detach()),
                int(quantizer.zero_point),
                float(share),
                group.tensors,
            )
            for group, quantizer, share in zip(
                self.placement.groups, self.quantizers, clipped, strict=True
            )
        )
        return Ranges(target, groups, self.placement.convs)

    def load_ranges(self, ranges: Ranges) -> None:
        """Set scales and zero points from a ranges file.

        Raises:
            CompressError: if the file belongs to another model or placement.
        """
        found = ranges.by_tensor()
        own = {tensor for group in self.placement.groups for tensor in group.tensors}
        strange = sorted(own ^ found.keys())
        if strange:
            raise CompressError(
                f"ranges: only one of model and ranges file knows '{strange[0]}' ({len(strange)} "
                "tensors in all): the file belongs to another model. Run the ptq or qat stage "
                "again."
            )
        for group, quantizer in zip(self.placement.groups, self.quantizers, strict=True):
            saved = found[group.tensors[0]]
            quantizer.set_scale(saved.scale, saved.zero_point)

    def remove(self) -> None:
        """Give the model back as it was, with the weights it has now."""
        for handle in self._handles:
            handle.remove()
        modules = dict(self.model.named_modules())
        for name, forward in self._blocks.items():
            modules[name].forward = forward
        delattr(self.model, QUANTIZERS)
