"""Cross-layer equalization: make neighbouring convolutions' channels alike, exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from compress.models.exportable import fused_copy, unfuse_into
from export.graph_view import GraphView

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu"})  # f(s x) = s f(x) for s > 0; SiLU's is not
_ROUNDS = 30
_SETTLED = 1e-3  # change of a channel's scale, on its logarithm


def equalized(model: nn.Module, graph: onnx.ModelProto) -> tuple[nn.Module, int]:
    """A copy of ``model`` that computes the same with more even channels.

    After Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction"
    (2019): only where a ReLU or leaky ReLU is all that lies between two convolutions.

    Args:
        model: a float model, not fused.
        graph: its exported float graph.

    Returns:
        The copy, in which BatchNorm is folded as after training, and how many pairs of convolutions
        were equalized; without any, ``model`` itself.
    """
    pairs = equalizable_pairs(graph)
    if not pairs:
        return model, 0
    fused = fused_copy(model)
    convs = [(fused.get_submodule(one), fused.get_submodule(other)) for one, other in pairs]
    equalize_pairs(convs)
    return unfuse_into(fused, model), len(pairs)


def equalizable_pairs(graph: onnx.ModelProto) -> list[tuple[str, str]]:
    """Module names of convolutions between which channels can be scaled freely.

    The first one's output goes only into the activation, and that one's only into the second
    convolution; neither's weight is used twice.
    """
    view = GraphView(graph)
    results = {output.name for output in graph.graph.output}
    uses = Counter(view.conv_names)

    def only_reader(node: onnx.NodeProto) -> onnx.NodeProto | None:
        readers = view.readers(node.output[0])
        return readers[0] if len(readers) == 1 and node.output[0] not in results else None

    pairs = []
    for node in view.nodes:
        activation = only_reader(node) if view.conv(node) else None
        if activation is None or activation.op_type not in _HOMOGENEOUS:
            continue
        first, second = view.conv(node), view.conv(only_reader(activation))
        if first and second and uses[first] == uses[second] == 1:
            pairs.append((first, second))
    return pairs


def equalization_note(graph: onnx.ModelProto) -> str:
    """What equalization does to the model of this graph, for a report."""
    pairs = equalizable_pairs(graph)
    if pairs:
        return f"cross-layer equalization of {len(pairs)} pairs of convolutions"
    return (
        "equalize: nothing to do: no two convolutions have only a ReLU or LeakyReLU between them "
        "(across SiLU equalization would change the model)"
    )


def equalize_pairs(pairs: Sequence[tuple[nn.Module, nn.Module]]) -> None:
    """Scale the channels between each pair of convolutions, in place, until nothing changes.

    A channel's scale is ``sqrt(r1 / r2)`` of the largest magnitudes that the first convolution
    writes and the second reads it with. The first one's bias counts among its weights: a channel
    that is nearly dead would else get a huge one. Channels without any weight stay as they are.
    """
    with torch.no_grad():
        for _ in range(_ROUNDS):
            if max(_equalize(first, second) for first, second in pairs) < _SETTLED:
                return


def _equalize(first: nn.Module, second: nn.Module) -> float:
    """Equalize once; gives the largest change on a logarithm."""
    written, read = _written(first), _read(second)
    alive = (written > 0) & (read > 0)
    scale = torch.where(alive, (written / read).sqrt(), 1.0)
    first.weight /= scale.reshape(-1, 1, 1, 1)
    if first.bias is not None:
        first.bias /= scale
    groups, inputs = second.groups, second.weight.shape[1]
    by_group = second.weight.view(groups, -1, *second.weight.shape[1:])
    by_group *= scale.reshape(groups, 1, inputs, 1, 1)
    return float(scale.log().abs().max())


def _written(conv: nn.Module) -> Tensor:
    """Largest magnitude (out,) of each output channel's weights and bias."""
    weights = conv.weight.abs().flatten(1).amax(1)
    return weights if conv.bias is None else torch.maximum(weights, conv.bias.abs())


def _read(conv: nn.Module) -> Tensor:
    """Largest magnitude (in,) with which each input channel is read."""
    by_group = conv.weight.abs().view(conv.groups, -1, *conv.weight.shape[1:])
    return by_group.amax((1, 3, 4)).flatten()
