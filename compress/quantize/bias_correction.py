"""Give back to each convolution's bias what rounding its weights takes from the mean output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.quantize.simulation import Simulation
from export.graph_view import block_name


def correct_biases(simulation: Simulation, batches: Iterable[Tensor]) -> None:
    """Add ``E[W x] - E[W_q x]`` to the bias of every INT8 convolution, in place.

    The empirical form of Nagel et al., "Data-Free Quantization through Weight Equalization and
    Bias Correction" (2019). Layers are corrected front to back within each batch, from the mean
    input over all batches so far, so that one pass is enough: what a layer sees comes from layers
    that are corrected already.

    Args:
        simulation: with its ranges set; convolutions without a bias are left alone.
        batches: images (N, 3, H, W) in [0, 1].
    """
    handles = []
    for name, rounding in simulation.weights.items():
        conv = simulation.convolution(name)
        if conv.bias is not None:
            block = simulation.model.get_submodule(block_name(name))
            handles.append(block.register_forward_pre_hook(_Corrector(conv, rounding)))
    simulation.model.eval()
    try:
        with torch.no_grad():
            for images in batches:
                simulation.model(images)
    finally:
        for handle in handles:
            handle.remove()


class _Corrector:
    """Forward pre-hook of a convolution's block."""

    def __init__(self, conv: nn.Conv2d, rounding: Callable[[Tensor], Tensor]) -> None:
        self.conv = conv
        weight = conv.weight.detach()
        self.lost = weight - rounding(weight).detach()
        self.bias = conv.bias.detach().clone()
        self.patch = torch.zeros_like(weight[0]).repeat(conv.groups, 1, 1)
        self.images = 0

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        self.images += len(x)
        self.patch += (mean_patch(x, self.conv) - self.patch) * (len(x) / self.images)
        self.conv.bias.data = self.bias + mean_output(self.lost, self.patch)


def mean_patch(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """What ``conv`` sees in ``x`` (N, in, H, W), averaged over images and positions: (in, kh, kw).

    Zeros of the padding count.
    """
    kernel = conv.kernel_size
    columns = F.unfold(x.mean(0, keepdim=True), kernel, conv.dilation, conv.padding, conv.stride)
    return columns.mean((0, 2)).reshape(-1, *kernel)


def mean_output(weight: Tensor, patch: Tensor) -> Tensor:
    """Mean output (out,) of a convolution without bias, by the mean of what it sees.

    Args:
        weight: (out, in / groups, kh, kw).
        patch: (in, kh, kw), see ``mean_patch``.
    """
    groups = len(patch) // weight.shape[1]
    rows, seen = weight.reshape(groups, len(weight) // groups, -1), patch.reshape(groups, -1, 1)
    return (rows @ seen).flatten()
