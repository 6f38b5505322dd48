"""Which channels to remove: aligned blocks, the least important first, to a budget. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Literal

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
    """Channels that are removed in equal numbers: one group, or several that are tied.

    ``order`` holds, for each group, its channels from the least to the most important; ``scores``
    the importance of the unit's next channel, next but one, ... in the same order. Only multiples
    of ``granularity`` channels may go at once, and ``floor`` of them stay.
    """

    roots: tuple[str, ...]
    order: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...]
    effects: tuple[Effect, ...]
    granularity: int = 1
    floor: int = 0

    @property
    def width(self) -> int:
        """Channels of each group of the unit."""
        return len(self.scores)


@dataclass(frozen=True)
class Cost:
    """A resource: a sum over convolutions, and a ``fixed`` rest that no pruning changes.

    ``of(layer, inputs, outputs)`` is one convolution's share, where ``inputs`` are the channels
    that each of its filters sees.
    """

    of: Callable[[str, int, int], float]
    fixed: float = 0.0


@dataclass(frozen=True)
class Budget:
    """``limit`` of ``cost`` shall remain of the ``whole`` that the unpruned net has.

    ``name`` is for messages, such as MACs.
    """

    name: str
    cost: Cost
    limit: float
    whole: float


@dataclass(frozen=True)
class Rules:
    """What every plan obeys.

    Widths are multiples of ``align`` channels; past what alignment takes, no unit loses more than
    ``max_pruned`` of its channels. ``scope``: ``global`` removes the block of lowest rank of all,
    ``local`` takes the same share of every unit. ``rank``: a block's mean score, or that score by
    the share of the budget that its removal saves. ``step``: channels that a runtime's kernels
    work on at once; where a unit's width is a multiple of it, so is what is removed.
    """

    align: int = 8
    max_pruned: float = 0.9
    scope: Literal["global", "local"] = "global"
    rank: Literal["score", "score_per_cost"] = "score"
    step: int = 1


@dataclass(frozen=True)
class PrunePlan:
    """Channels to remove, by root convolution, and the resource before and after.

    ``narrow``: roots of units that stay as they are, being narrower than one aligned block.
    """

    removed: Mapping[str, tuple[int, ...]]
    before: float
    after: float
    narrow: tuple[str, ...] = ()


@dataclass
class _State:
    """Channel counts while blocks are being removed."""

    counts: dict[str, tuple[int, int]]
    cost: Cost
    removed: list[int]
    total: float = field(init=False)

    def __post_init__(self) -> None:
        self.total = self.cost.fixed + sum(
            self.cost.of(name, *count) for name, count in self.counts.items()
        )

    def after(self, unit: Unit, channels: int) -> tuple[dict[str, tuple[int, int]], float]:
        """Counts of the layers touched, and the total, were ``channels`` more removed."""
        counts: dict[str, list[int]] = {}
        for effect in unit.effects:
            count = counts.setdefault(effect.conv, list(self.counts[effect.conv]))
            count[0 if effect.side == "in" else 1] -= effect.channels * channels
        changed = {name: (count[0], count[1]) for name, count in counts.items()}
        delta = sum(
            self.cost.of(name, *count) - self.cost.of(name, *self.counts[name])
            for name, count in changed.items()
        )
        return changed, self.total + delta

    def remove(self, index: int, unit: Unit, channels: int) -> None:
        changed, self.total = self.after(unit, channels)
        self.counts.update(changed)
        self.removed[index] += channels


@dataclass(frozen=True)
class _Candidate:
    """One block. ``total`` is what would remain of the resource."""

    rank: float
    index: int
    channels: int
    total: float


def plan_channels(
    units: Sequence[Unit],
    widths: Mapping[str, tuple[int, int]],
    budget: Budget,
    rules: Rules,
) -> PrunePlan:
    """Choose the channels to remove so that the budget is met within 1 %.

    Args:
        units: what may be removed.
        widths: convolution -> (inputs that each filter sees, outputs).
        budget: what may remain.
        rules: alignment, cap and order.

    Returns:
        A plan within 1 % of the limit, or as close as aligned blocks come.

    Raises:
        CompressError: if the budget is out of reach; says what can be reached.
    """
    state = _State(dict(widths), budget.cost, [0] * len(units))
    before = state.total
    narrow = _align_widths(state, units, rules)
    while state.total > budget.limit * (1 + TOLERANCE):
        candidates = sorted(_candidates(state, units, rules), key=lambda c: (c.rank, c.index))
        if not candidates:
            raise _out_of_reach(budget, rules, state.total)
        best = _choose(candidates, budget.limit)
        if best is None:
            _settle(state, units, rules, budget.limit)
            break
        state.remove(best.index, units[best.index], best.channels)
    removed = {
        root: tuple(sorted(order[: state.removed[index]]))
        for index, unit in enumerate(units)
        for root, order in zip(unit.roots, unit.order, strict=True)
        if state.removed[index]
    }
    return PrunePlan(removed, before, state.total, narrow)


def _out_of_reach(budget: Budget, rules: Rules, least: float) -> CompressError:
    return CompressError(
        f"prune: {budget.limit / budget.whole:.1%} of the {budget.name} cannot be reached: with "
        f"align {rules.align} and at most {rules.max_pruned:.0%} of a layer removed, "
        f"{least / budget.whole:.1%} remain. Raise the target or `max_pruned`, lower `align`, or "
        "take layers out of `ignore` and `min_channels`."
    )


def _block(unit: Unit, rules: Rules) -> int:
    block = lcm(rules.align, unit.granularity)
    whole = lcm(block, rules.step)
    return block if unit.width % whole else whole


def _align_widths(state: _State, units: Sequence[Unit], rules: Rules) -> tuple[str, ...]:
    """Remove what is beyond a multiple; gives the roots of units too narrow for one."""
    narrow = []
    for index, unit in enumerate(units):
        block = _block(unit, rules)
        excess = unit.width % block
        if excess and unit.width < block:
            narrow.append(unit.roots[0])
        elif excess and unit.width - excess < unit.floor:
            raise CompressError(
                f"prune: layer '{unit.roots[0]}' has {unit.width} channels, of which {unit.floor} "
                f"must stay, but align {rules.align} leaves {unit.width - excess}. Lower `align`, "
                "`min_channels`, or name the layer in `ignore`."
            )
        elif excess:
            state.remove(index, unit, excess)
    return tuple(narrow)


def _candidates(state: _State, units: Sequence[Unit], rules: Rules) -> Iterator[_Candidate]:
    for index, unit in enumerate(units):
        block = _block(unit, rules)
        start = state.removed[index]
        left = unit.width - start - block
        if left < max(block, unit.floor, unit.width * (1 - rules.max_pruned)):
            continue
        total = state.after(unit, block)[1]
        yield _Candidate(_rank(unit, start, block, state.total - total, rules), index, block, total)


def _rank(unit: Unit, start: int, block: int, saved: float, rules: Rules) -> float:
    if rules.scope == "local":
        return (start + block) / unit.width
    score = sum(unit.scores[start : start + block])
    if rules.rank == "score":
        return score / block
    return score / saved if saved > 0 else float("inf")


def _choose(candidates: Sequence[_Candidate], limit: float) -> _Candidate | None:
    """The lowest rank that does not fall below the limit; None near the end, if all do."""
    floor = limit * (1 - TOLERANCE)
    return next((candidate for candidate in candidates if candidate.total >= floor), None)


@dataclass(frozen=True)
class _Move:
    """Blocks given back and removed at once. ``loss`` by rank, ``error`` relative to the limit."""

    error: float
    loss: float
    back: int | None
    further: int | None


def _settle(state: _State, units: Sequence[Unit], rules: Rules, limit: float) -> None:
    """Come as close to the limit as giving back and removing single blocks can.

    Within the tolerance, the move that loses least by rank.
    """
    error = abs(state.total / limit - 1)
    while error > TOLERANCE:
        best = min(
            _moves(state, units, rules, limit),
            key=lambda move: (max(move.error, TOLERANCE), move.loss),
            default=None,
        )
        if best is None or best.error >= error:
            return
        error = best.error
        for index, sign in ((best.back, -1), (best.further, 1)):
            if index is not None:
                state.remove(index, units[index], sign * _block(units[index], rules))


def _moves(state: _State, units: Sequence[Unit], rules: Rules, limit: float) -> Iterator[_Move]:
    """Every single block back, every single block further, and every pair of the two."""
    for candidate in _candidates(state, units, rules):
        yield _Move(abs(candidate.total / limit - 1), candidate.rank, None, candidate.index)
    for index, unit in enumerate(units):
        block = _block(unit, rules)
        if state.removed[index] < block:
            continue
        start, total = state.removed[index] - block, state.total
        state.remove(index, unit, -block)
        regained = _rank(unit, start, block, state.total - total, rules)
        yield _Move(abs(state.total / limit - 1), -regained, index, None)
        for candidate in _candidates(state, units, rules):
            if candidate.index != index:
                error = abs(candidate.total / limit - 1)
                yield _Move(error, candidate.rank - regained, index, candidate.index)
        state.remove(index, unit, block)
