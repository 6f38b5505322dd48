"""How much mAP a model loses when one of its layers is cut, and what a plan makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import lcm
from typing import Any

from torch import nn

from compress.errors import CompressError
from compress.prune.solver import Unit
from compress.prune.structure import PrunableModel

VERSION = 1  # of the file's layout
NOTHING = 1e-9  # mAP: less than this is no drop


@dataclass(frozen=True)
class LayerCut:
    """One layer cut alone: ``cut`` of ``width`` channels in each of ``roots``, nothing retrained.

    ``layer`` is the model's name for it; ``map50_95`` (0 to 1) is measured after the cut, ``drop``
    is what it lost against the dense model, below 0 where it gained.
    """

    roots: tuple[str, ...]
    layer: str
    width: int
    cut: int
    map50_95: float
    drop: float


def channels_to_cut(unit: Unit, share: float, align: int) -> int:
    """About ``share`` of the unit's channels, so that a multiple of ``align`` remains.

    Args:
        unit: what is cut.
        share: between 0 and 1.
        align: multiple of channels that remain; raised to that of the unit's runs.

    Returns:
        Channels to cut, 0 where the unit is no wider than one aligned block.
    """
    block = lcm(align, unit.granularity)
    remain = block * max(1, round(unit.width * (1 - share) / block))
    return max(0, unit.width - remain)


def cut_layers(
    structure: PrunableModel,
    units: Sequence[Unit],
    share: float,
    align: int,
    dense: float,
    measure: Callable[[nn.Module], float],
) -> Iterator[LayerCut | None]:
    """Cut the least important ``share`` of each unit in turn and measure what is left of the mAP.

    Args:
        structure: the model; stays as it is.
        units: ranked, see ``compress.prune.prune.channel_units``.
        share: of a unit's channels, between 0 and 1.
        align: widths stay multiples of it.
        dense: mAP50-95 of the whole model.
        measure: model -> mAP50-95.

    Yields:
        One row a unit, in their order; None for a unit too narrow to be cut.
    """
    for unit in units:
        cut = channels_to_cut(unit, share, align)
        if cut == 0:
            yield None
            continue
        least = {root: order[:cut] for root, order in zip(unit.roots, unit.order, strict=True)}
        found = measure(structure.without(least))
        yield LayerCut(
            unit.roots, layer_name(structure, unit.roots[0]), unit.width, cut, found, dense - found
        )


def layer_name(structure: PrunableModel, root: str) -> str:
    """What the model calls the layer of a group: ``model.2.cv1`` for ``model.2.cv1.conv``."""
    conv, bracket, run = root.partition("[")
    return structure.origin[conv].removesuffix(".conv") + bracket + run


def report(dense: float, rows: Sequence[LayerCut], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``sensitivity.json``."""
    return {
        "version": VERSION,
        **settings,
        "dense": dense,
        "rows": [asdict(row) for row in rows],
    }


def weights_from(sensitivity: Mapping[str, Any]) -> dict[str, float]:
    """Factors on the scores of a plan: channels of sensitive layers are worth more.

    ``weight = 1/2 + d / (2 * mean(d))`` with ``d`` the layer's drop, 0 where it gained. A layer of
    average drop is taken as its scores say, one without any loses half: on few images a drop of 0
    is no proof that a layer is free.

    Args:
        sensitivity: the content of ``sensitivity.json``.

    Returns:
        Root -> weight, 1/2 or larger, with mean 1 over the layers measured; all 1 if none lost
        anything. Layers that were not measured are not listed.

    Raises:
        CompressError: if the content is not of this version.
    """
    if sensitivity.get("version") != VERSION:
        raise CompressError(
            f"prune: a sensitivity file of version {sensitivity.get('version')} where {VERSION} is "
            "known. Run the stage `sensitivity` again."
        )
    rows = sensitivity["rows"]
    drops = [max(0.0, float(row["drop"])) for row in rows]
    total = sum(drops)
    weights: dict[str, float] = {}
    for row, drop in zip(rows, drops, strict=True):
        weight = 0.5 + 0.5 * drop * len(rows) / total if total > NOTHING else 1.0
        weights |= dict.fromkeys(row["roots"], weight)
    return weights
