"""Write out all blocks of a model whose channels could not be followed otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from compress.models.blocks.attention import SplitAreaAttention, SplitGlobalAttention
from compress.models.blocks.chunks import SlicedADown, SplitCBLinear
from compress.models.blocks.expanded import Expanded, Port
from compress.models.blocks.halves import SplitC2, SplitC2f, SplitC2PSA, SplitELAN, SplitPSA

_KINDS = (
    SplitC2f,
    SplitC2,
    SplitELAN,
    SplitC2PSA,
    SplitPSA,
    SplitGlobalAttention,
    SplitAreaAttention,
    SlicedADown,
    SplitCBLinear,
)


@dataclass(frozen=True)
class Expansion:
    """How an expanded model corresponds to the stock one; see `Expanded` for ties and runs.

    ``origins``: name of a layer that is a piece -> (stock layer, rows of it).
    """

    origins: Mapping[str, tuple[str, Tensor]]
    ties: tuple[tuple[Port, ...], ...]
    runs: Mapping[Port, int]


def expand(model: nn.Module) -> Expansion:
    """Replace blocks of ``model`` by their expanded form, in place. The function stays the same."""
    origins: dict[str, tuple[str, Tensor]] = {}
    ties: list[tuple[Port, ...]] = []
    runs: dict[Port, int] = {}
    for name, block in list(model.named_modules()):
        kind = _kind_of(block)
        if kind is None:
            continue
        expanded = kind(block).train(block.training)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, expanded)
        for piece, (source, rows) in expanded.pieces.items():
            for inner, _ in expanded.get_submodule(piece).named_modules():
                end = f".{inner}" if inner else ""
                origins[f"{name}.{piece}{end}"] = (f"{name}.{source}{end}", rows)
        ties += [tuple((f"{name}.{c}", side) for c, side in tie) for tie in expanded.ties]
        runs |= {(f"{name}.{c}", side): count for (c, side), count in expanded.runs.items()}
    return Expansion(origins, tuple(ties), runs)


def _kind_of(block: nn.Module) -> type[Expanded] | None:
    """The expanded form of a block; of a subclass only where it computes the same."""
    for kind in _KINDS:
        if isinstance(block, kind.stock) and type(block).forward is kind.stock.forward:
            return kind
    return None
