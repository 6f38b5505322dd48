"""What a model's channels cost: MACs and parameters as functions of every convolution's widths."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from compress.models.inspect import COUNTED, conv_costs, count_params, filter_shape
from compress.prune.solver import Budget, Cost

Resource = Literal["macs", "params"]
_NAMES = {"macs": "MACs", "params": "parameters"}


def conv_channels(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Convolution or linear layer -> (inputs that each filter sees, outputs)."""
    return {
        name: filter_shape(module)
        for name, module in model.named_modules()
        if isinstance(module, COUNTED)
    }


def macs_cost(model: nn.Module, imgsz: int) -> Cost:
    """Multiply-accumulates of one square image of ``imgsz`` pixels, see ``conv_costs``."""
    costs = conv_costs(model, imgsz)

    def of(layer: str, inputs: int, outputs: int) -> float:
        return costs[layer].macs(inputs, outputs) if layer in costs else 0

    return Cost(of)


def params_cost(model: nn.Module) -> Cost:
    """Parameters: filters, biases and the norms behind them; what else there is stays as it is."""
    modules = dict(model.named_modules())
    per_output: dict[str, int] = {}
    taps: dict[str, int] = {}
    for name in conv_channels(model):
        taps[name] = math.prod(getattr(modules[name], "kernel_size", ()))
        norm = modules.get(f"{name.rpartition('.')[0]}.bn") if name.endswith(".conv") else None
        bias = 1 if modules[name].bias is not None else 0
        per_output[name] = bias + (2 if isinstance(norm, nn.BatchNorm2d) else 0)

    def of(layer: str, inputs: int, outputs: int) -> float:
        return outputs * (inputs * taps[layer] + per_output[layer])

    counted = sum(of(name, *channels) for name, channels in conv_channels(model).items())
    return Cost(of, count_params(model) - counted)


def keep_share(model: nn.Module, imgsz: int, resource: Resource, keep: float) -> Budget:
    """The budget that leaves ``keep`` (0 to 1) of the model's MACs or parameters."""
    cost = macs_cost(model, imgsz) if resource == "macs" else params_cost(model)
    whole = total_of(cost, model)
    return Budget(_NAMES[resource], cost, keep * whole, whole)


def total_of(cost: Cost, model: nn.Module) -> float:
    """The whole model's cost as it is."""
    channels = conv_channels(model)
    return cost.fixed + sum(cost.of(name, *widths) for name, widths in channels.items())
