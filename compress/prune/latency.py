"""Time as the cost of channels: measured convolutions, and a rest that pruning leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from bench.conv_times.graph import DEPTHWISE, Geometry
from bench.conv_times.table import ConvShape, LayerTable
from compress.errors import CompressError
from compress.models.exportable import exportable
from compress.prune.cost import conv_channels
from compress.prune.solver import Cost

TOLERANCE = 0.05  # of the target
_ROUNDS = 4
_LEAST, _MOST = 0.01, 0.99
_INNER = ".conv"  # the convolution of a block

Model = TypeVar("Model")


@dataclass(frozen=True)
class ExportedConv:
    """A convolution of the exported net; ``layer`` is what its operators are named after there."""

    layer: str
    shape: ConvShape


def exported_convs(model: nn.Module, imgsz: int) -> dict[str, ExportedConv]:
    """Every convolution that ``model`` runs once it is exported, by its name in ``model``.

    Branches that are folded into one stand under the name of the widest (a RepConv's 3 x 3), and
    what is not exported, such as a second head, is left out.

    Args:
        model: in stock classes, not fused.
        imgsz: side of the square image in pixels.
    """
    view = exportable(model)
    blocks = {name for name, module in view.named_modules() if _has_silu(module)}
    names = conv_channels(model)
    convs: dict[str, ExportedConv] = {}

    def record(name: str, conv: nn.Conv2d, image: torch.Tensor) -> None:
        height, width = image.shape[-2:]
        layer = name.removesuffix(_INNER)
        shape = _conv_shape(conv, height, width, layer in blocks)
        convs[_unfused(name, names)] = ExportedConv(layer, shape)

    for name, module in view.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, data, _, name=name: record(name, m, data[0]))
    with torch.no_grad():
        view(torch.zeros(1, 3, imgsz, imgsz, device=next(view.parameters()).device))
    return convs


def _unfused(name: str, names: Container[str]) -> str:
    """Which convolution of the unfused net became ``name``: itself, or the widest of a block."""
    of_rep_vgg, of_rep_conv = f"{name}{_INNER}", f"{name}1{_INNER}"
    return next(found for found in (name, of_rep_vgg, of_rep_conv) if found in names)


def _has_silu(module: nn.Module) -> bool:
    return isinstance(getattr(module, "act", None), nn.SiLU)


def _conv_shape(conv: nn.Conv2d, height: int, width: int, silu: bool) -> ConvShape:
    depthwise = conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels
    groups = DEPTHWISE if depthwise else conv.groups
    geometry = Geometry(conv.kernel_size[0], conv.stride[0], groups, height, width, silu)
    return ConvShape(geometry, conv.in_channels // conv.groups, conv.out_channels)


def latency_cost(shapes: Mapping[str, ConvShape], table: LayerTable, rest_share: float) -> Cost:
    """Milliseconds, as the table knows them, of each convolution and of all the rest.

    The table's clock is not the net's: what counts are shares of ``Cost``'s sum. Measured on
    YOLOv8n, additive times tell a pruned net's share of its parent's to about 1 %, once the rest
    (concatenations, decoding ...) is set by its share of the parent, while absolute times are off
    by as much as the machine's clock wanders.

    Args:
        shapes: the unpruned convolutions by name; others cost nothing.
        table: covers all of them.
        rest_share: of the unpruned net's time that no convolution takes, 0 or more, below 1.
    """
    total = sum(table.ms(shape) for shape in shapes.values())

    def of(layer: str, inputs: int, outputs: int) -> float:
        if layer not in shapes:
            return 0.0
        return table.ms(ConvShape(shapes[layer].geometry, inputs, outputs))

    return Cost(of, total * rest_share / (1 - rest_share))


@dataclass(frozen=True)
class Reached(Generic[Model]):
    """The model that came closest to a target, its measured share, and all (asked, measured)."""

    model: Model
    share: float
    trials: tuple[tuple[float, float], ...]


def reach_share(
    target: float,
    plan: Callable[[float], Model],
    measure: Callable[[Model], float],
    rounds: int = _ROUNDS,
) -> Reached[Model]:
    """Plan, measure, correct what is asked of the plan, until the measured share is the target.

    Args:
        target: share of the parent's time, above 0 and below 1.
        plan: share to ask for -> model.
        measure: model -> share that it really takes.
        rounds: at most so many models are made.

    Returns:
        The model within 5 % of the target, or the closest of all rounds.

    Raises:
        CompressError: the first plan is out of reach; later ones just end the search.
    """
    best: Reached[Model] | None = None
    trials: list[tuple[float, float]] = []
    asked = target
    while best is None or (len(trials) < rounds and _miss(best.share, target) > TOLERANCE):
        try:
            model = plan(asked)
        except CompressError:
            if best is None:
                raise
            break
        trials.append((asked, measure(model)))
        if best is None or _miss(trials[-1][1], target) < _miss(best.share, target):
            best = Reached(model, trials[-1][1], ())
        asked = _corrected(trials, target)
    return Reached(best.model, best.share, tuple(trials))


def _miss(share: float, target: float) -> float:
    return abs(share / target - 1)


def _corrected(trials: Sequence[tuple[float, float]], target: float) -> float:
    """What to ask for next: on the line through the two closest trials, or in proportion."""
    (asked, share), *others = sorted(trials, key=lambda trial: _miss(trial[1], target))
    proportional = asked * target / share
    if others:
        slope = (others[0][0] - asked) / (others[0][1] - share) if others[0][1] != share else 0.0
        # noise can turn the line upside down
        proportional = asked + slope * (target - share) if slope > 0 else proportional
    return min(max(proportional, _LEAST), _MOST)
