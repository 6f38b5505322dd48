"""What a run would do: which stages are cached, which must run, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from compress.errors import CompressError
from compress.pipeline.back_off import BackOffSearch, back_off_of, written
from compress.pipeline.cache import Entry, NotStored, StageCache
from compress.pipeline.contract import Artifact
from compress.pipeline.gates import check_gates
from compress.pipeline.job import Job, Place
from compress.pipeline.keys import differences, key_material, key_of
from compress.pipeline.links import Step, link_steps, resolve_inputs
from compress.pipeline.record import Memory
from compress.pipeline.stage_table import STAGES, StageTable
from compress.progress import Progress
from compress.recipe.schema import PruneStage

_SHOWN_CHANGES = 3


@dataclass(frozen=True)
class Selection:
    """Which stages a run covers, by name; empty is no limit.

    Stages before ``start`` must be cached, those after ``until`` are left out, those of
    ``force`` run even if they are cached.
    """

    start: str = ""
    until: str = ""
    force: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedStep:
    """What would happen to one stage. ``key`` is empty while its inputs are not known.

    ``note`` tells of back-off: the trial that a prune stage is in, or what a missed gate leads to.
    """

    name: str
    stage: str
    state: Literal["hit", "miss", "unknown"]
    reason: str
    key: str = ""
    note: str = ""


def plan(
    job: Job,
    place: Place,
    progress: Progress,
    selection: Selection | None = None,
    table: StageTable = STAGES,
) -> list[PlannedStep]:
    """Look every stage up, and change nothing.

    Trials of a back-off that are stored are gone through as a run would; the plan is of the first
    that is not, or else of the last.

    Raises:
        CompressError: the selection names no stage, or a stage before its start is not cached.
    """
    selection = selection or Selection()
    steps = select(link_steps(job.recipe, table), selection)
    planner = _Planner(job, StageCache(place.cache, progress), Memory(place.run), selection.force)
    planned = planner.look_at(steps)
    _require_cached(planned, selection)
    return planned


def select(steps: Sequence[Step], selection: Selection) -> tuple[Step, ...]:
    """The steps up to ``selection.until``.

    Raises:
        CompressError: the selection names a stage that the recipe has not, or an empty range.
    """
    names = [step.name for step in steps]
    wanted = {"--from": selection.start, "--until": selection.until}
    for option, name in [*wanted.items(), *(("--force", name) for name in selection.force)]:
        if name and name not in names:
            raise CompressError(f"{option} {name}: no such stage; there are {', '.join(names)}")
    last = names.index(selection.until) if selection.until else len(names) - 1
    if selection.start and names.index(selection.start) > last:
        raise CompressError(
            f"--from {selection.start}: it comes after --until {selection.until}, "
            "so nothing would run"
        )
    return tuple(steps[: last + 1])


def find(
    step: Step, material: Mapping[str, Any], cache: StageCache, memory: Memory, forced: bool
) -> tuple[Entry | None, str]:
    """The stored result for ``material``, or None and why there is none."""
    if forced:
        return None, "forced"
    try:
        return cache.load(step.kind.name, key_of(material)), ""
    except NotStored as fault:
        if fault.damage:
            return None, f"its stored result is damaged: {fault.damage}"
    known = memory.material(step.name)
    if not known:
        return None, "never run"
    return None, _short(differences(known, material)) or "its result is no longer in the cache"


class _Planner:
    def __init__(self, job: Job, cache: StageCache, memory: Memory, force: tuple[str, ...]) -> None:
        self._job = job
        self._cache = cache
        self._memory = memory
        self._force = force
        self._outputs: dict[str, dict[str, Artifact]] = {}
        self._metrics: dict[str, Mapping[str, Any]] = {}
        self._changing: set[str] = set()

    def look_at(self, steps: Sequence[Step]) -> list[PlannedStep]:
        search, planned = BackOffSearch(steps), list[PlannedStep]()
        while len(planned) < len(steps):
            step = search.steps[len(planned)]
            found = self._look(step)
            planned.append(replace(found, note=_note(step, found, search)))
            # a gate can be judged where it and all that is before it are stored
            if back_off_of(step) and len(self._metrics) == len(planned):
                again = search.retreat(step, check_gates(step, self._metrics))
                if again is not None:
                    self._forget(search.steps[again : len(planned)])
                    del planned[again:]
        return planned

    def _forget(self, steps: Sequence[Step]) -> None:
        for step in steps:
            del self._outputs[step.name], self._metrics[step.name]

    def _look(self, step: Step) -> PlannedStep:
        waiting = [name for name in step.sources if name not in self._outputs]
        if waiting:
            return self._look_blind(step, waiting)
        inputs = resolve_inputs(step, self._job.named, self._outputs)
        material = key_material(step, self._job, inputs)
        entry, reason = find(step, material, self._cache, self._memory, step.name in self._force)
        if entry:
            self._outputs[step.name] = entry.artifacts()
            self._metrics[step.name] = entry.metrics
            return PlannedStep(step.name, step.kind.name, "hit", "", entry.key)
        known = self._memory.material(step.name)
        if known and differences(known, material):
            self._changing.add(step.name)
        return PlannedStep(step.name, step.kind.name, "miss", reason, key_of(material))

    def _look_blind(self, step: Step, waiting: list[str]) -> PlannedStep:
        """Judge a step whose inputs are not made yet by what is known of it."""
        known = dict(self._memory.material(step.name))
        fresh = key_material(step, self._job, {})
        changes = differences({**known, "inputs": {}}, fresh) if known else []
        altered = [name for name in waiting if name in self._changing]
        if step.name in self._force:
            reason = "forced"
        elif not known:
            reason = "never run"
        elif changes:
            reason = _short(changes)
        elif altered:
            reason = f"its input from '{altered[0]}' will change"
        else:
            reason = f"not known until '{waiting[0]}' has run"
            return PlannedStep(step.name, step.kind.name, "unknown", reason)
        if changes or altered:
            self._changing.add(step.name)
        return PlannedStep(step.name, step.kind.name, "miss", reason)


def _note(step: Step, found: PlannedStep, search: BackOffSearch) -> str:
    if isinstance(step.config, PruneStage) and search.trial > 1:
        unit, value = written(step.config.target)
        return f"trial {search.trial}: target {unit} {value:g}"
    back_off, left = back_off_of(step), search.tries_left(step)
    if back_off is None or not left or found.state == "hit":
        return ""
    times = "once" if left == 1 else f"up to {left} times"
    return f"if its gate is missed, '{back_off.stage}' is eased and run again, {times}"


def _short(changes: Sequence[str]) -> str:
    more = len(changes) - _SHOWN_CHANGES
    return ", ".join(changes[:_SHOWN_CHANGES]) + (f" and {more} more" if more > 0 else "")


def _require_cached(planned: Sequence[PlannedStep], selection: Selection) -> None:
    if not selection.start:
        return
    for step in planned:
        if step.name == selection.start:
            return
        if step.state != "hit":
            raise CompressError(
                f"--from {selection.start}: '{step.name}' before it is not cached ({step.reason}). "
                f"Run without --from, or with --from {step.name}"
            )
