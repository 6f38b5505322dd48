"""The least time that a net's work takes on a board, by its peaks. Pure; an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.roofline.boards import Board
from bench.work import Work

_OPERATIONS = 2  # of a multiply-accumulate, as data sheets count


@dataclass(frozen=True)
class LayerFloor:
    """One layer: what its MACs and what its bytes take, by the board's peaks."""

    work: Work
    compute_ms: float
    memory_ms: float

    @property
    def ms(self) -> float:
        """The larger of both."""
        return max(self.compute_ms, self.memory_ms)

    @property
    def compute_bound(self) -> bool:
        """Whether arithmetic takes longer than memory."""
        return self.compute_ms > self.memory_ms


@dataclass(frozen=True)
class Floor:
    """A whole net on one board, one batch.

    ``by_layers_ms``: every layer's tensors pass memory once. ``least_ms``: those between layers
    cost nothing.
    """

    layers: tuple[LayerFloor, ...]
    by_layers_ms: float
    least_ms: float

    @property
    def compute_bound_share(self) -> float:
        """The share of ``by_layers_ms``, 0 to 1, in layers that arithmetic bounds."""
        bound = sum(layer.ms for layer in self.layers if layer.compute_bound)
        return bound / self.by_layers_ms


def floor_of(layers: Sequence[Work], board: Board) -> Floor:
    """What ``board`` needs at least for ``layers``, a net in graph order (one at least).

    Where the board has no INT8, ``layers`` must be counted as floats (``work_of(int8=False)``).
    """
    floors = tuple(_layer_floor(work, board) for work in layers)
    compute = sum(floor.compute_ms for floor in floors)
    compulsory = layers[0].input_bytes + sum(work.weight_bytes for work in layers)
    return Floor(
        layers=floors,
        by_layers_ms=sum(floor.ms for floor in floors),
        least_ms=max(compute, _memory_ms(compulsory, board)),
    )


def _layer_floor(work: Work, board: Board) -> LayerFloor:
    peak = board.int8_tops if work.int8 and board.int8_tops else board.fp16_tflops
    compute_ms = work.macs * _OPERATIONS / (peak * 1e12) * 1e3
    return LayerFloor(work, compute_ms, _memory_ms(work.bytes, board))


def _memory_ms(size: int, board: Board) -> float:
    return size / (board.gb_per_s * 1e9) * 1e3
