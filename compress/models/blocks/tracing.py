"""Run an expanded model once, so that autograd has seen every way that channels take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from ultralytics.nn.modules.block import Proto26
from ultralytics.nn.modules.head import Pose26

from compress.models.blocks.expanded import Expanded


def traced_outputs(model: nn.Module, image: Tensor, ends: Sequence[str]) -> list[Tensor]:
    """The outputs of the layers ``ends``, and what meets only inside a block.

    What the head makes of its outputs is not part of them; what it computes in training alone is,
    because those layers read the same channels.

    Args:
        model: an expanded model in eval mode.
        image: (1, 3, H, W).
        ends: names of the head's last layers.
    """
    found: list[Tensor] = []
    with ExitStack() as stack:
        for name in ends:
            layer = model.get_submodule(name)
            handle = layer.register_forward_hook(lambda _, __, output: found.append(output))
            stack.callback(handle.remove)
        for block in model.modules():
            if isinstance(block, Expanded):
                stack.enter_context(_side_outputs(block, found))
            elif isinstance(block, Proto26):
                stack.enter_context(_training_flag(block))
            elif isinstance(block, Pose26):
                stack.enter_context(_sigma_branches(block))
        model(image)
    return found


@contextmanager
def _side_outputs(block: Expanded, found: list[Tensor]) -> Iterator[None]:
    block.side = found
    try:
        yield
    finally:
        block.side = None


@contextmanager
def _training_flag(proto: Proto26) -> Iterator[None]:
    """Its semantic branch runs in training only; the flag of its layers stays as it is."""
    was = proto.training
    proto.training = True
    try:
        yield
    finally:
        proto.training = was


@contextmanager
def _sigma_branches(head: Pose26) -> Iterator[None]:
    """In training each keypoint layer has a twin that reads the same features."""
    handles = []
    for branch in ("cv4", "one2one_cv4"):
        layers = getattr(head, f"{branch}_kpts", None) or ()
        twins = getattr(head, f"{branch}_sigma", None) or ()
        for layer, twin in zip(layers, twins, strict=False):
            handles.append(layer.register_forward_hook(_running(twin)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _running(twin: nn.Module) -> Callable[[nn.Module, Any, Tensor], None]:
    def run(_: nn.Module, inputs: Any, __: Tensor) -> None:
        twin(*inputs)

    return run
