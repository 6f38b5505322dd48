"""Which channels to remove: aligned blocks of lowest score until the budget is met. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compress.errors import CompressError

TOLERANCE = 0.01  # of the target


@dataclass(frozen=True)
class Effect:
    """Removing one channel of a unit takes ``channels`` from this side of a convolution."""

    conv: str
    side: str
    channels: int


@dataclass(frozen=True)
class Unit:
    """Channels that are removed in equal numbers: one group, or the two halves of a C2f.

    ``order`` holds, for each group, its channels from the least to the most important; ``scores``
    the importance of the unit's next channel, next but one, ... in the same order.
    """

    roots: tuple[str, ...]
    order: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...]
    effects: tuple[Effect, ...]

    @property
    def width(self) -> int:
        """Channels of each group of the unit."""
        return len(self.scores)


@dataclass(frozen=True)
class Layer:
    """A convolution's channels and its cost as a function of them."""

    inputs: int
    outputs: int
    macs: Callable[[int, int], int]


@dataclass(frozen=True)
class PrunePlan:
    """Channels to remove, by root convolution, and the MACs before and after."""

    removed: Mapping[str, tuple[int, ...]]
    macs_before: int
    macs_after: int


class _State:
    """Channel counts while blocks are being removed."""

    def __init__(self, units: Sequence[Unit], layers: Mapping[str, Layer]) -> None:
        self.layers = layers
        self.counts = {name: [layer.inputs, layer.outputs] for name, layer in layers.items()}
        self.removed = [0] * len(units)
        self.macs = sum(layer.macs(layer.inputs, layer.outputs) for layer in layers.values())

    def after(self, unit: Unit, channels: int) -> tuple[dict[str, list[int]], int]:
        """Channel counts of the layers touched, and all MACs, were ``channels`` removed."""
        counts: dict[str, list[int]] = {}
        for effect in unit.effects:
            count = counts.setdefault(effect.conv, list(self.counts[effect.conv]))
            count[0 if effect.side == "in" else 1] -= effect.channels * channels
        delta = sum(
            self.layers[name].macs(*count) - self.layers[name].macs(*self.counts[name])
            for name, count in counts.items()
        )
        return counts, self.macs + delta

    def remove(self, index: int, unit: Unit, channels: int) -> None:
        counts, self.macs = self.after(unit, channels)
        self.counts.update(counts)
        self.removed[index] += channels


@dataclass(frozen=True)
class _Candidate:
    score: float
    index: int
    channels: int
    macs: int


def plan_channels(
    units: Sequence[Unit],
    layers: Mapping[str, Layer],
    keep_macs: float,
    align: int,
    max_pruned: float,
) -> PrunePlan:
    """Choose the channels to remove so that ``keep_macs`` of the MACs remain.

    Within 1 %, or as close below as blocks of ``align`` channels allow. The blocks go in the order
    of their mean score over all units. Past what alignment takes, no unit loses more than
    ``max_pruned`` of its channels, and what remains is a multiple of ``align``.

    Raises:
        CompressError: if the target is out of reach; says what can be reached.
    """
    state = _State(units, layers)
    before = state.macs
    target = keep_macs * before
    _align_widths(state, units, align)
    while state.macs > target * (1 + TOLERANCE):
        candidates = sorted(_candidates(state, units, align, max_pruned), key=lambda c: c.score)
        if not candidates:
            raise CompressError(
                f"prune: {keep_macs:.0%} of the MACs cannot be reached: with align {align} and at "
                f"most {max_pruned:.0%} of a layer removed, {state.macs / before:.1%} remain. "
                "Raise `target.macs` or `max_pruned`, or lower `align`."
            )
        best = _choose(candidates, target)
        state.remove(best.index, units[best.index], best.channels)
    removed = {
        root: tuple(sorted(order[: state.removed[index]]))
        for index, unit in enumerate(units)
        for root, order in zip(unit.roots, unit.order, strict=True)
        if state.removed[index]
    }
    return PrunePlan(removed, before, state.macs)


def _align_widths(state: _State, units: Sequence[Unit], align: int) -> None:
    for index, unit in enumerate(units):
        excess = unit.width % align
        if excess and unit.width < align:
            raise CompressError(
                f"prune: layer '{unit.roots[0]}' has {unit.width} channels, fewer than align "
                f"{align}. Lower `align`."
            )
        if excess:
            state.remove(index, unit, excess)


def _candidates(
    state: _State, units: Sequence[Unit], align: int, max_pruned: float
) -> list[_Candidate]:
    found = []
    for index, unit in enumerate(units):
        start = state.removed[index]
        left = unit.width - start - align
        if left < align or left < unit.width * (1 - max_pruned):
            continue
        score = sum(unit.scores[start : start + align]) / align
        found.append(_Candidate(score, index, align, state.after(unit, align)[1]))
    return found


def _choose(candidates: Sequence[_Candidate], target: float) -> _Candidate:
    """The lowest score; near the end, the lowest one that does not fall below the target."""
    floor = target * (1 - TOLERANCE)
    for candidate in candidates:
        if candidate.macs >= floor:
            return candidate
    return max(candidates, key=lambda c: c.macs)
