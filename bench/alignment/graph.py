"""A net as alignment sees it: convolutions, and what stands before and behind them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["conv", "dense", "softmax", "other"]
Side = Literal["input", "output"]

IMAGE = "the image's channels"
HEAD = "an output of the net: its channels are classes, box bins, coordinates or masks"
BOX_BINS = "the bins of the box distribution (DFL)"


@dataclass(frozen=True)
class Node:
    """One operator of a file, whatever its format.

    ``inputs`` and ``outputs`` are names of tensors, the data's first. ``channels`` are input and
    output channels of a convolution's whole tensors, all groups together.
    """

    name: str
    role: Role
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    channels: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ConvSide:
    """One side of a convolution. ``exempt`` says why its channels may be ragged, else empty."""

    layer: str
    side: Side
    channels: int
    exempt: str = ""


def sides_of(nodes: Sequence[Node]) -> list[ConvSide]:
    """Both sides of every convolution, in the order of ``nodes``.

    Exempt is what no pruning can change, found by reachability: the input of a convolution with no
    other before it (the image), the output of one with no layer but the DFL's behind it (the
    head's outputs), and the DFL's own input.
    """
    convs = [node for node in nodes if node.role == "conv"]
    dfl = [conv for conv in convs if _is_dfl(conv, nodes)]
    readers = [node for node in nodes if node.role in ("conv", "dense") and node not in dfl]
    behind = _reached(_outputs(convs), nodes, lambda node: (node.inputs, node.outputs))
    before = _reached(_inputs(readers), nodes, lambda node: (node.outputs, node.inputs))
    sides = []
    for conv in convs:
        inputs, outputs = conv.channels
        input_reason = "" if conv.inputs[0] in behind else IMAGE
        if conv in dfl:
            input_reason = BOX_BINS
        output_reason = "" if before.intersection(conv.outputs) else HEAD
        sides.append(ConvSide(conv.name, "input", inputs, input_reason))
        sides.append(ConvSide(conv.name, "output", outputs, output_reason))
    return sides


def _inputs(nodes: Iterable[Node]) -> set[str]:
    return {tensor for node in nodes for tensor in node.inputs}


def _outputs(nodes: Iterable[Node]) -> set[str]:
    return {tensor for node in nodes for tensor in node.outputs}


def _reached(
    tensors: set[str],
    nodes: Sequence[Node],
    step: Callable[[Node], tuple[tuple[str, ...], tuple[str, ...]]],
) -> set[str]:
    """``tensors``, and all that lie beyond them; ``step`` gives both ends of a node."""
    beyond: dict[str, list[str]] = {}
    for node in nodes:
        near, far = step(node)
        for tensor in near:
            beyond.setdefault(tensor, []).extend(far)
    found, left = set(tensors), list(tensors)
    while left:
        for tensor in beyond.get(left.pop(), ()):
            if tensor not in found:
                found.add(tensor)
                left.append(tensor)
    return found


def _is_dfl(conv: Node, nodes: Sequence[Node]) -> bool:
    """The expectation over box bins: one output channel, right behind a softmax."""
    if conv.channels[1] != 1:
        return False
    producers = {tensor: node for node in nodes for tensor in node.outputs}
    seen: set[str] = set()
    producer = producers.get(conv.inputs[0])
    while producer is not None and producer.role != "conv" and producer.inputs:
        if producer.role == "softmax":
            return True
        if producer.name in seen:  # a damaged file may run in a circle
            return False
        seen.add(producer.name)
        producer = producers.get(producer.inputs[0])
    return False
