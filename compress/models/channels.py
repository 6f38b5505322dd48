"""Take channels out of single layers. Knows torch's layers only, not what hangs together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.Linear)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each output channel of a convolution reads the input channel of the same number."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.groups > 1
        and layer.groups == layer.in_channels == layer.out_channels
    )


def keep_channels(
    layer: nn.Module, outputs: Tensor | None = None, inputs: Tensor | None = None
) -> None:
    """Keep these channels of a convolution, BatchNorm or linear layer, in place.

    Args:
        layer: the layer; a depthwise convolution and a BatchNorm have outputs alone.
        outputs: (n,) indices of output channels; None keeps all.
        inputs: (m,) indices of input channels; None keeps all.

    Raises:
        TypeError: if the layer has no channels that could be chosen.
    """
    if isinstance(layer, nn.BatchNorm2d):
        _keep(layer, ("weight", "bias", "running_mean", "running_var"), 0, outputs)
        layer.num_features = len(layer.running_mean)
    elif isinstance(layer, nn.Linear):
        _keep(layer, ("weight", "bias"), 0, outputs)
        _keep(layer, ("weight",), 1, inputs)
        layer.out_features, layer.in_features = layer.weight.shape
    elif is_depthwise(layer):
        _keep(layer, ("weight", "bias"), 0, outputs)
        layer.in_channels = layer.out_channels = layer.groups = len(layer.weight)
    elif isinstance(layer, nn.Conv2d):
        _keep(layer, ("weight", "bias"), 0, outputs)
        _keep(layer, ("weight",), 1, inputs)
        layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1]
    elif isinstance(layer, nn.ConvTranspose2d):
        _keep(layer, ("weight",), 1, outputs)
        _keep(layer, ("bias",), 0, outputs)
        _keep(layer, ("weight",), 0, inputs)
        layer.in_channels, layer.out_channels = layer.weight.shape[0], layer.weight.shape[1]
    else:
        raise TypeError(f"{type(layer).__name__} has no channels that could be chosen")


def set_channels(layer: nn.Module, inputs: int, outputs: int) -> None:
    """Give a layer new tensors of zeros for so many channels, in place.

    A depthwise convolution and a BatchNorm have as many inputs as outputs: ``outputs`` counts.
    """
    everything = torch.zeros(outputs, dtype=torch.int64)
    seen = torch.zeros(inputs, dtype=torch.int64)
    keep_channels(layer, everything, seen)
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.data.zero_()


def channel_count(layer: nn.Module, side: str) -> int:
    """Channels of one side (``in`` or ``out``) of a convolution, BatchNorm or linear layer."""
    if isinstance(layer, nn.BatchNorm2d):
        return layer.num_features
    if isinstance(layer, nn.Linear):
        return layer.in_features if side == "in" else layer.out_features
    return int(layer.in_channels if side == "in" else layer.out_channels)


def filters_first(layer: nn.Module) -> Tensor:
    """A convolution's weight as (out, in, kh, kw), also of a transposed one."""
    weight: Tensor = layer.weight
    return weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight


def _keep(layer: nn.Module, names: tuple[str, ...], dim: int, kept: Tensor | None) -> None:
    if kept is None:
        return
    for name in names:
        values = getattr(layer, name)
        if values is None:
            continue
        chosen = values.detach().index_select(dim, kept.to(values.device))
        if isinstance(values, nn.Parameter):
            chosen = nn.Parameter(chosen, requires_grad=values.requires_grad)
        setattr(layer, name, chosen)


def kept_after(width: int, removed: Tensor) -> Tensor:
    """Indices below ``width`` that are not in ``removed``, ascending."""
    mask = torch.ones(width, dtype=torch.bool)
    mask[removed] = False
    return mask.nonzero().flatten()
