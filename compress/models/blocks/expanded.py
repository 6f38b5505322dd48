"""What stands in for a stock block while its channels are followed."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.channels import keep_channels

Port = tuple[str, str]  # name of a convolution, and "in" or "out"


class Expanded(nn.Module):
    """A stock block written out, so that every channel of every convolution can be followed.

    A dependency graph cannot follow channels through ``chunk``, or through the ``view`` that makes
    heads of an attention. So a convolution whose output is taken apart becomes several ones, the
    *pieces*. Children that stay keep their names. Computes what the block does; lives only while
    pruning. Names below are relative to the block.

    Attributes:
        pieces: child -> (child of the stock block, rows of it that the piece computes).
        ties: ports whose groups must lose equally many channels, for the block to be joined again.
        runs: port -> number of equal runs (heads) in its channels that lose equally many.
        side: while tracing, takes tensors that meet only where the graph is not followed.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.pieces: dict[str, tuple[str, Tensor]] = {}
        self.ties: list[tuple[Port, ...]] = []
        self.runs: dict[Port, int] = {}
        self.side: list[Tensor] | None = None
        for name in ("i", "f", "type", "np"):  # what ultralytics' forward reads of a layer
            if hasattr(block, name):
                setattr(self, name, getattr(block, name))

    def adopt(self, block: nn.Module, *names: str) -> None:
        """Take these children of ``block`` as they are."""
        for name in names:
            setattr(self, name, getattr(block, name))

    def take(self, block: nn.Module, source: str, pieces: Mapping[str, Tensor]) -> None:
        """Make pieces of the child ``source``: name of the piece -> rows."""
        for name, rows in pieces.items():
            setattr(self, name, _rows_of(getattr(block, source), rows))
            self.pieces[name] = (source, rows)


def _rows_of(module: Any, rows: Tensor) -> nn.Module:
    """A copy of a convolution (with or without BatchNorm) that computes only ``rows``."""
    piece: nn.Module = deepcopy(module)
    for layer in piece.modules():
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            keep_channels(layer, rows)
    return piece


def consecutive(*widths: int) -> list[Tensor]:
    """Runs of row numbers of these widths, one after the other."""
    return list(torch.split_with_sizes(torch.arange(sum(widths)), list(widths)))
