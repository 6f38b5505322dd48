"""A profile as rows of PyTorch modules: what takes the time, and how fast each computes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bench.profile.layer_times import layer_of, layer_times
from bench.work import NetWork, Work

NO_MODULE = "(no module)"
INT8, FLOAT, MIXED = "int8", "float", "mixed"
_NOTICEABLE = 0.01  # a share of the time under which a layer says nothing of the best speed
_ROUNDING = {"QuantizeLinear", "DequantizeLinear"}
_SHOWN_KINDS = 3


@dataclass(frozen=True)
class LayerRow:
    """What one module took, of one inference.

    ``share`` and ``cumulated``: of the profile's sum, 0 to 1, rows in the order of their time.
    ``operators``: how many the runtime timed. ``precision``: what its convolutions and products
    ran in, ``int8``, ``float`` or ``mixed``; empty where it has none. ``in_file``: the same by the
    file, which a runtime need not follow; empty where that is unknown. ``outputs``: channels of
    the last of them. ``gmacs_per_s``: 10^9 multiply-accumulates a second. ``of_best``: that speed
    as a share of the fastest layer's of the same precision that takes 1 % of the time or more.
    """

    module: str
    ms: float
    share: float
    cumulated: float
    operators: int
    kind: str
    precision: str
    in_file: str
    outputs: int | None
    macs: int
    gmacs_per_s: float | None
    of_best: float | None


@dataclass(frozen=True)
class Change:
    """One module in two profiles. None: not in that one."""

    module: str
    base_ms: float | None
    ms: float | None
    base_precision: str
    precision: str

    @property
    def difference(self) -> float:
        """Milliseconds that it takes longer in the second."""
        return (self.ms or 0.0) - (self.base_ms or 0.0)


def rows_of(
    times: Mapping[str, float],
    net: NetWork | None,
    int8: Mapping[str, Collection[bool]] | None = None,
) -> list[LayerRow]:
    """Rows by time, the longest first. They sum up to the sum of ``times``.

    Args:
        times: operator -> milliseconds.
        net: the work of the graph that was timed; None where that is unknown.
        int8: operator -> whether it ran on integers, of convolutions and products; modules without
            any have the file's precision.
    """
    works = _works(net)
    written = {module: _precision({work.int8 for work in works[module]}) for module in works}
    precisions = {**written, **_ran(int8 or {})}
    counts = Counter(layer_of(operator) for operator in times)
    by_time = sorted(layer_times(times).items(), key=lambda entry: -entry[1])
    total = sum(times.values())
    best = _best_speeds(by_time, works, precisions, total)
    rows, cumulated = [], 0.0
    for module, ms in by_time:
        cumulated += ms
        layers = works.get(module, [])
        speed, precision = _speed(layers, ms), precisions.get(module, "")
        rows.append(
            LayerRow(
                module=module or NO_MODULE,
                ms=ms,
                share=ms / total if total else 0.0,
                cumulated=cumulated / total if total else 0.0,
                operators=counts[module],
                kind=_kind(module, layers, net),
                precision=precision,
                in_file=written.get(module, ""),
                outputs=layers[-1].outputs if layers else None,
                macs=sum(layer.macs for layer in layers),
                gmacs_per_s=speed,
                of_best=speed / best[precision] if speed and precision in best else None,
            )
        )
    return rows


def untimed(times: Mapping[str, float], net: NetWork) -> list[str]:
    """Modules with work but no time of their own: the runtime computes them inside another."""
    timed = {layer_of(operator) for operator in times}
    return list(dict.fromkeys(work.module for work in net.layers if work.module not in timed))


def not_in_int8(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Rows with Q/DQ in the file that ran in float, wholly or in part."""
    return [
        row
        for row in rows
        if row.in_file in (INT8, MIXED)
        and row.precision in (FLOAT, MIXED)
        and row.in_file != row.precision
    ]


def changes_between(base: Sequence[LayerRow], other: Sequence[LayerRow]) -> list[Change]:
    """Every module of either, the largest difference first."""
    before, after = ({row.module: row for row in rows} for rows in (base, other))
    changes = [
        Change(
            module,
            before[module].ms if module in before else None,
            after[module].ms if module in after else None,
            before[module].precision if module in before else "",
            after[module].precision if module in after else "",
        )
        for module in dict.fromkeys([*before, *after])
    ]
    return sorted(changes, key=lambda change: -abs(change.difference))


def heaviest(rows: Sequence[LayerRow], share: float) -> list[LayerRow]:
    """The fewest rows that take ``share`` (0 to 1) of the time together."""
    return [row for row in rows if row.cumulated - row.share < share]


def slow_for_their_work(rows: Sequence[LayerRow], below: float) -> list[LayerRow]:
    """Rows of noticeable time that reach less than ``below`` of the best layer's speed."""
    return [row for row in rows if row.share >= _NOTICEABLE and (row.of_best or 1.0) < below]


def _works(net: NetWork | None) -> dict[str, list[Work]]:
    works: dict[str, list[Work]] = {}
    for work in net.layers if net else ():
        works.setdefault(work.module, []).append(work)
    return works


def _best_speeds(
    by_time: Sequence[tuple[str, float]],
    works: Mapping[str, Sequence[Work]],
    precisions: Mapping[str, str],
    total: float,
) -> dict[str, float]:
    """Precision -> the highest speed of a layer whose time is more than noise."""
    best: dict[str, float] = {}
    for module, ms in by_time:
        layers = works.get(module, ())
        speed = _speed(layers, ms)
        if speed and ms >= _NOTICEABLE * total:
            precision = precisions[module]
            best[precision] = max(best.get(precision, 0.0), speed)
    return best


def _speed(layers: Sequence[Work], ms: float) -> float | None:
    macs = sum(layer.macs for layer in layers)
    return macs / ms / 1e6 if macs and ms else None


def _ran(int8: Mapping[str, Collection[bool]]) -> dict[str, str]:
    """Module -> what its convolutions and products ran in."""
    kinds: dict[str, set[bool]] = {}
    for operator, found in int8.items():
        kinds.setdefault(layer_of(operator), set()).update(found)
    return {module: _precision(found) for module, found in kinds.items()}


def _precision(int8: Collection[bool]) -> str:
    if len(int8) > 1:
        return MIXED
    return INT8 if True in int8 else FLOAT


def _kind(module: str, layers: Sequence[Work], net: NetWork | None) -> str:
    kinds: list[str] = [layer.kind for layer in layers]
    if not kinds and net is not None:
        kinds = [kind for kind in net.operators.get(module, ()) if kind not in _ROUNDING]
    counted = Counter(kinds).most_common()
    texts = [f"{count}x {kind}" if count > 1 else kind for kind, count in counted[:_SHOWN_KINDS]]
    return ", ".join(texts) + (", ..." if len(counted) > _SHOWN_KINDS else "")
