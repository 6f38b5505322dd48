"""Make a fused PyTorch model compute what the INT8 graph will compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import CompressError
from compress.quantize.fake_quantizer import FakeQuantizer, WeightQuantizer
from compress.quantize.rounded_silu import can_look_up, rounded_silu
from export.graph_view import block_name
from export.placement import INPUT, READER, Placement, Point, QuantizationGroup
from export.ranges import GroupRange, Ranges

QUANTIZERS = "quantizers"  # submodule of the model while it is simulated
_FIXED = {INPUT: (0.0, 1.0), "Sigmoid": (0.0, 1.0)}  # ranges known without calibration


class PointHook:
    """What happens to the tensor of one point: it is observed, or rounded and maybe recorded."""

    def __init__(self, quantizer: FakeQuantizer) -> None:
        self.quantizer = quantizer
        self.observe: Callable[[Tensor], None] | None = None
        self.record: Callable[[Tensor], None] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Observe or round ``x``."""
        if self.observe is not None:
            self.observe(x.detach())
            return x
        rounded = self.quantizer(x)
        if self.record is not None:
            self.record(rounded.detach())
        return rounded


class _Keep:
    """A point that the graph does not quantize."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


class _QuantizedConv:
    """Stands in for the forward of a convolution's block, rounded at each of its points.

    ``block`` is ultralytics' Conv, fused (convolution, then activation), or a bare convolution.
    """

    def __init__(
        self, block: nn.Module, points: dict[str, PointHook], weight: WeightQuantizer | None
    ) -> None:
        self.conv = getattr(block, "conv", block)
        self.activation = getattr(block, "act", None)
        self.points = points
        self.weight = weight
        self.keep = _Keep()
        behind = [hook for operator, hook in points.items() if operator not in ("Conv", READER)]
        self.result = behind[-1] if behind else self.keep

    def __call__(self, x: Tensor) -> Tensor:
        conv = self.conv
        weight = conv.weight if self.weight is None else self.weight(conv.weight)
        x = self._at(READER)(x)
        y = F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        if isinstance(self.activation, nn.SiLU):
            return self._silu(y)
        y = self._at("Conv")(y)
        return self.result(y if self.activation is None else self.activation(y))

    def _silu(self, y: Tensor) -> Tensor:
        hooks = [self.points.get(operator) for operator in ("Conv", "Sigmoid", "Mul")]
        quantizers = [hook.quantizer for hook in hooks if hook is not None and hook.observe is None]
        if len(quantizers) == 3 and can_look_up(y, *quantizers):
            return rounded_silu(y, *quantizers)
        y = self._at("Conv")(y)
        return self._at("Mul")(y * self._at("Sigmoid")(torch.sigmoid(y)))

    def _at(self, operator: str) -> Callable[[Tensor], Tensor]:
        return self.points.get(operator, self.keep)


def _is_block(module: nn.Module | None) -> bool:
    """Whether this is ultralytics' Conv, or made like it, ``act(conv(x))``; or a convolution."""
    if isinstance(module, nn.Conv2d):
        return True
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


class Quantizers(nn.Module):
    """All that is rounded in a simulated model: activations by group, weights by convolution."""

    def __init__(self, placement: Placement, weight_bits: int) -> None:
        super().__init__()
        self.activations = nn.ModuleList(
            FakeQuantizer(symmetric=group.symmetric) for group in placement.groups
        )
        self.weights = nn.ModuleList(WeightQuantizer(weight_bits) for _ in placement.convs)


class Simulation:
    """Fake quantization on a fused model, put on in place and taken off by ``remove``.

    While it is on, the quantizers are a submodule, so their scales are trained, averaged and saved
    with the model's weights. Everything is made of plain classes and can be copied.
    """

    def __init__(self, model: nn.Module, placement: Placement, weight_bits: int = 8) -> None:
        """``model`` must be fused (``models.exportable.fused_copy``).

        Raises:
            CompressError: if a point of the graph has no counterpart among the modules.
        """
        self.model = model
        self.placement = placement
        self.weight_bits = weight_bits
        self.quantizers = Quantizers(placement, weight_bits)
        self.points: list[list[tuple[Point, PointHook]]] = [
            [(point, PointHook(quantizer)) for point in group.points]
            for group, quantizer in zip(placement.groups, self.quantizers.activations, strict=True)
        ]
        self._handles: list[Any] = []
        self._blocks: dict[str, Any] = {}
        self._attach()

    @property
    def groups(self) -> list[tuple[QuantizationGroup, FakeQuantizer]]:
        """Each quantization group with what rounds its tensors."""
        return list(zip(self.placement.groups, self.quantizers.activations, strict=True))

    @property
    def weights(self) -> dict[str, WeightQuantizer]:
        """INT8 convolution -> what rounds its weight."""
        return dict(zip(self.placement.convs, self.quantizers.weights, strict=True))

    def convolution(self, name: str) -> nn.Conv2d:
        """The convolution of this name."""
        return cast(nn.Conv2d, self.model.get_submodule(name))

    def _attach(self) -> None:
        setattr(self.model, QUANTIZERS, self.quantizers)
        modules = dict(self.model.named_modules())
        by_block: dict[str, dict[str, PointHook]] = {}
        for point, hook in (pair for group in self.points for pair in group):
            if point.operator == INPUT:
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
        weights = {block_name(conv): quantizer for conv, quantizer in self.weights.items()}
        for name in sorted(by_block.keys() | weights.keys()):
            block = modules[name]
            if not _is_block(block):
                raise CompressError(
                    f"quantize: '{name}' computes more than a convolution and an activation "
                    f"({type(block).__name__}), which cannot be simulated. List it under "
                    "`float_layers`."
                )
            self._blocks[name] = block.forward
            block.forward = _QuantizedConv(block, by_block.get(name, {}), weights.get(name))

    def _hook_input(self, hook: PointHook) -> None:
        first = self.model.model[0]
        self._handles.append(first.register_forward_pre_hook(_QuantizedInput(hook)))

    def fixed_range(self, group: Sequence[tuple[Point, PointHook]]) -> tuple[float, float] | None:
        """The range of a group that needs no calibration, if it is one."""
        kinds = {point.operator for point, _ in group}
        return _FIXED.get(kinds.pop()) if len(kinds) == 1 else None

    def ranges(self, targets: Sequence[str], clipped: Sequence[float]) -> Ranges:
        """The present scales and zero points as a ranges file."""
        groups = tuple(
            GroupRange(
                float(quantizer.scale.detach()),
                int(quantizer.zero_point),
                float(share),
                group.tensors,
            )
            for (group, quantizer), share in zip(self.groups, clipped, strict=True)
        )
        learned = {
            name: quantizer.scale(self.convolution(name).weight).detach().tolist()
            for name, quantizer in self.weights.items()
            if quantizer.learned
        }
        return Ranges(tuple(targets), groups, self.placement.convs, self.weight_bits, learned)

    def load_ranges(self, ranges: Ranges) -> None:
        """Set scales and zero points from a ranges file that has all of this placement.

        Raises:
            CompressError: if it lacks a tensor: it belongs to another model or placement.
        """
        found = ranges.by_tensor()
        strange = sorted({group.tensors[0] for group in self.placement.groups} - found.keys())
        if strange or set(ranges.convs) != set(self.placement.convs):
            name = strange[0] if strange else "another choice of INT8 convolutions"
            raise CompressError(
                f"ranges: only one of model and ranges file knows '{name}': the file belongs to "
                "another model. Run the ptq or qat stage again."
            )
        for group, quantizer in self.groups:
            saved = found[group.tensors[0]]
            quantizer.set_scale(saved.scale, saved.zero_point)
        for name, weight in self.weights.items():
            if name in ranges.weight_scales:
                weight.set_scale(ranges.weight_scales[name])

    def remove(self) -> None:
        """Give the model back as it was, with the weights it has now."""
        for handle in self._handles:
            handle.remove()
        modules = dict(self.model.named_modules())
        for name, forward in self._blocks.items():
            modules[name].forward = forward
        delattr(self.model, QUANTIZERS)
