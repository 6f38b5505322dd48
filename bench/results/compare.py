"""Two results against each other: which files became slower beyond noise. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.results.schema import BenchResult, Row
from bench.statistics import drawn_medians, interval, percentile, samples_needed

if TYPE_CHECKING:
    from bench.statistics import Series

TOLERANCE = 0.03  # two runs on a quiet machine differ by this much without a reason
SLOWER, FASTER, SAME = "slower", "faster", "same"
BASE, TOO_FEW = "base", "too few samples"
ONLY_BEFORE, ONLY_AFTER = "only before", "only after"
_CORES = ("physical_cores", "logical_cores")
_WHO = ("cpu", *_CORES)  # what another value makes another machine of
_HOW = ("usable_cores", "governor", "turbo", "virtual", "memory_bytes", "system", "python")
_SETTINGS = ("threads", "index", "shape", "cuda_graph", "min_seconds")
_ROW = ("runtime", "float_type", "input")


@dataclass(frozen=True)
class Change:
    """What became of a file. ``ratio``: median time after over before, above 1 where slower.

    ``low`` and ``high`` hold it with 95 % confidence, each run being one of many that might have
    been. None for what only one result has, the interval also where samples are too few.
    """

    label: str
    verdict: str
    before_ms: float | None = None
    after_ms: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    same_file: bool | None = None


@dataclass(frozen=True)
class Comparison:
    """All files, and what else differs between the runs.

    ``relative``: the ratios are of times over the first common file's. ``differences`` are of
    machine, device and settings, ``notes`` what to know when reading.
    """

    changes: list[Change]
    tolerance: float
    relative: bool
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def slower(self) -> list[str]:
        """Labels of what became slower beyond noise."""
        return [change.label for change in self.changes if change.verdict == SLOWER]


def compare(
    before: BenchResult,
    after: BenchResult,
    *,
    tolerance: float = TOLERANCE,
    relative: bool = False,
    any_machine: bool = False,
) -> Comparison:
    """What became of the files that both results have, by label.

    Args:
        before: the result to hold against.
        after: the result in question.
        tolerance: a file is slower (faster) where the whole interval of its ratio lies beyond this
            share, at least 0.
        relative: compare times as multiples of the first common file's: the machine drops out.
        any_machine: compare results of different machines, too.

    Raises:
        BenchError: no file is in both (``relative``: fewer than two), or the machines differ.
    """
    if tolerance < 0:
        raise BenchError(f"The tolerance {tolerance} is below 0: give a share such as 0.03.")
    shared = _shared(before, after)
    if relative and len(shared) < 2:
        raise BenchError(
            f"Only '{shared[0]}' is in both results: --relative holds files against the first "
            "common one, so it takes two. Leave it out, or measure another file in both runs."
        )
    others = other_machine(before, after, shared)
    if others and not any_machine:
        raise BenchError(
            f"The results are of different machines ({'; '.join(others)}), so times cannot be "
            "compared. Measure both on one, or say --any-machine (best with --relative)."
        )
    changes, moved = [], []
    if not relative:
        changes = [_change(before, after, [label], tolerance) for label in shared]
    if relative or _moved_alike(changes):
        held = [_change(before, after, [label, shared[0]], tolerance) for label in shared]
        moved = [] if relative else [_moved(changes, held, shared[0])]
        changes = changes or [replace(held[0], verdict=BASE), *held[1:]]
    return Comparison(
        changes=[*changes, *_alone(before, after)],
        tolerance=tolerance,
        relative=relative,
        differences=list(dict.fromkeys([*others, *_differences(before, after, shared)])),
        notes=[
            *moved,
            *(_other_base(changes[0]) if relative else []),
            *_too_few(before, after, shared),
            *_incomplete(before, after),
            *_warned(before, after),
        ],
    )


def time_ratio(
    before: Sequence[Series], after: Sequence[Series], tolerance: float
) -> tuple[str, float, float | None, float | None]:
    """Verdict, ratio and interval of ``after`` over ``before``, two independent runs.

    Too few samples for a median have no interval.

    Each holds a file's samples and, where times are multiples of a base's, those of the base. The
    runs are drawn apart from each other, in blocks of rounds, a file and its base together.
    """
    ratio = _time([percentile(each, 50) for each in after]) / _time(
        [percentile(each, 50) for each in before]
    )
    if min(len(each) for each in (*before, *after)) < samples_needed(50):
        return TOO_FEW, float(ratio), None, None
    old, new = drawn_medians(*before, seed=0), drawn_medians(*after, seed=1)
    low, high = interval(_time(new.T) / _time(old.T))
    verdict = SAME
    if low > 1 + tolerance:
        verdict = SLOWER
    elif high < 1 / (1 + tolerance):
        verdict = FASTER
    return verdict, float(ratio), low, high


def other_machine(
    before: BenchResult, after: BenchResult, shared: Sequence[str] | None = None
) -> list[str]:
    """By what one sees that the results are of different machines or devices; empty: they are not.

    ``shared`` are the labels whose rows are looked at; None for all that both have.
    """
    labels = _shared(before, after) if shared is None else shared
    old, new = _rows(before), _rows(after)
    return [
        *_changed(before["machine"], after["machine"], _who(before, after)),
        *_changed({"device": before["device"]["name"]}, {"device": after["device"]["name"]}),
        *_changed(before["device"]["facts"], after["device"]["facts"], ["module"]),
        *dict.fromkeys(
            text
            for label in labels
            for text in _changed(
                {"runs on": old[label]["device"]}, {"runs on": new[label]["device"]}
            )
        ),
    ]


def _who(before: BenchResult, after: BenchResult) -> Sequence[str]:
    """Facts of a machine that are its own: a Jetson's power mode switches cores off."""
    on_jetson = any(result["device"]["facts"].get("module") for result in (before, after))
    return ["cpu"] if on_jetson else _WHO


def _time(medians: Sequence[Any]) -> Any:
    """The first, over the second where there is one."""
    return medians[0] / medians[1] if len(medians) > 1 else medians[0]


def _change(
    before: BenchResult, after: BenchResult, labels: Sequence[str], tolerance: float
) -> Change:
    """Of the first label, held against the second where there is one."""
    label = labels[0]
    old, new = _rows(before)[label], _rows(after)[label]
    verdict, ratio, low, high = time_ratio(
        [before["samples_ns"][each] for each in labels],
        [after["samples_ns"][each] for each in labels],
        tolerance,
    )
    return Change(
        label=label,
        verdict=verdict,
        before_ms=old["latency_ms"]["p50"],
        after_ms=new["latency_ms"]["p50"],
        ratio=ratio,
        low=low,
        high=high,
        same_file=old["sha256"] == new["sha256"],
    )


def _rows(result: BenchResult) -> dict[str, Row]:
    return {row["label"]: row for row in result["rows"]}


def _shared(before: BenchResult, after: BenchResult) -> list[str]:
    rows = _rows(after)
    shared = [label for label in _rows(before) if label in rows]
    if not shared:
        old, new = ", ".join(_rows(before)), ", ".join(rows)
        raise BenchError(
            f"No file is in both results: before there were {old}, now {new}. Files are matched by "
            "label."
        )
    return shared


def _alone(before: BenchResult, after: BenchResult) -> list[Change]:
    old, new = _rows(before), _rows(after)
    gone = [
        Change(label, ONLY_BEFORE, before_ms=row["latency_ms"]["p50"])
        for label, row in old.items()
        if label not in new
    ]
    added = [
        Change(label, ONLY_AFTER, after_ms=row["latency_ms"]["p50"])
        for label, row in new.items()
        if label not in old
    ]
    return [*gone, *added]


def _moved_alike(changes: Sequence[Change]) -> bool:
    """Whether several files all became slower, or all faster."""
    verdicts = {change.verdict for change in changes}
    return len(changes) > 1 and verdicts in ({SLOWER}, {FASTER})


def _moved(plain: Sequence[Change], held: Sequence[Change], base: str) -> str:
    ratios = [change.ratio for change in plain if change.ratio is not None]
    own = [f"'{change.label}' is {change.verdict}" for change in held if change.verdict != SAME]
    return (
        f"all files became {plain[0].verdict} ({min(ratios):.2f} to {max(ratios):.2f} times the "
        "time), so it may be the machine that moved: its clock, its temperature, other programs. "
        f"Held against '{base}' (--relative), {', '.join(own) or 'no file is'} "
        f"{'' if own else 'slower or faster'}".rstrip()
        + "."
    )


def _differences(before: BenchResult, after: BenchResult, shared: Sequence[str]) -> list[str]:
    """What does not make another machine, but may make other times."""
    old, new = _rows(before), _rows(after)
    rows = [
        f"'{label}' {text}"
        for label in shared
        for text in _changed(dict(old[label]), dict(new[label]), _ROW)
    ]
    return [
        *_changed(before["machine"], after["machine"], (*_CORES, *_HOW)),
        *_changed(before["device"]["facts"], after["device"]["facts"]),
        *_changed(before["settings"], after["settings"], _SETTINGS),
        *rows,
    ]


def _changed(
    before: Mapping[str, Any], after: Mapping[str, Any], names: Sequence[str] | None = None
) -> list[str]:
    chosen = list(dict.fromkeys([*before, *after])) if names is None else names
    return [
        f"{name.replace('_', ' ')}: {_text(before.get(name))} -> {_text(after.get(name))}"
        for name in chosen
        if before.get(name) != after.get(name)
    ]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    return "not known" if value is None else str(value)


def _other_base(base: Change) -> list[str]:
    if base.same_file:
        return []
    return [
        f"'{base.label}', which times are held against, is not the same file in both results: "
        "what changed in it looks like a change of the others."
    ]


def _too_few(before: BenchResult, after: BenchResult, shared: Sequence[str]) -> list[str]:
    counts = {
        name: min(len(result["samples_ns"][label]) for label in shared)
        for name, result in (("before", before), ("after", after))
    }
    return [
        f"the result {name} has {count} samples a file; a median takes {samples_needed(50)}: "
        "measure longer."
        for name, count in counts.items()
        if count < samples_needed(50)
    ]


def _incomplete(before: BenchResult, after: BenchResult) -> list[str]:
    return [
        f"the result {name} was stopped before its time: it has fewer samples than it was to have."
        for name, result in (("before", before), ("after", after))
        if not result["complete"]
    ]


def _warned(before: BenchResult, after: BenchResult) -> list[str]:
    return [
        f"the run {name} has warnings of its own: {' '.join(result['warnings'])}"
        for name, result in (("before", before), ("after", after))
        if result["warnings"]
    ]
