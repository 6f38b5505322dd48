"""Run a recipe: each stage once, kept by key, published into the run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import CompressError, GateError
from compress.pipeline.back_off import BackOffSearch, back_off_of, written
from compress.pipeline.cache import Entry, StageCache
from compress.pipeline.contract import Artifact, Context
from compress.pipeline.files import (
    link_or_copy,
    make_writable_folder,
    remove_drafts,
    storage_faults,
    write_text,
)
from compress.pipeline.gates import GateResult, check_gates
from compress.pipeline.job import Job, Place
from compress.pipeline.keys import key_material, key_of
from compress.pipeline.links import Input, Step, link_steps, resolve_inputs
from compress.pipeline.locks import Busy, hold
from compress.pipeline.plan import Selection, find, plan, select
from compress.pipeline.preflight import check_before_work
from compress.pipeline.record import Memory, RunRecord
from compress.pipeline.resolved import resolved_recipe
from compress.pipeline.stage_table import STAGES, StageTable
from compress.progress import Progress

_REPORTS = ("report.md", "report.html")
_SHARED = "shared"

Check = Callable[[Job, Sequence[Step], Path], None]


@dataclass(frozen=True)
class Outcome:
    """The end of a run: the content of ``run.json`` and the names of the stages that ran."""

    record: Mapping[str, Any]
    ran: tuple[str, ...]


def run(
    job: Job,
    place: Place,
    progress: Progress,
    write_report: Callable[[Path], object],
    selection: Selection | None = None,
    table: StageTable = STAGES,
    check: Check = check_before_work,
) -> Outcome:
    """Bring every selected stage's result into the run folder, running what is not cached.

    Results go to the cache and into ``run.json`` one by one, so that an end at any moment loses
    no finished stage. ``write_report`` is called with the run folder when ``run.json`` is complete,
    ``check`` before the first stage that is not cached. Where a gate with ``back_off`` is missed,
    the run goes back to the prune stage with an eased target; the last trial's files stay
    published.

    Raises:
        GateError: a result misses its ``accept`` gate; it is kept, and the report is written.
        CompressError: any other fault of the user's.
    """
    selection = selection or Selection()
    steps = select(link_steps(job.recipe, table), selection)
    make_writable_folder(place.run, "--out")
    make_writable_folder(place.cache, "--cache")
    with _only_run_in(place.run), storage_faults(place.cache):
        if selection.start:
            plan(job, place, progress, selection, table)
        return _Run(job, place, progress, write_report, steps, selection.force, check).execute()


@contextmanager
def _only_run_in(folder: Path) -> Iterator[None]:
    try:
        with hold(folder / ".lock"):
            yield
    except Busy as busy:
        raise CompressError(
            f"'{folder}' is in use by {busy.holder}. "
            "Wait for it to end, stop it, or give this run a folder of its own with --out"
        ) from None


class _Run:
    def __init__(
        self,
        job: Job,
        place: Place,
        progress: Progress,
        write_report: Callable[[Path], object],
        steps: Sequence[Step],
        force: tuple[str, ...],
        check: Check,
    ) -> None:
        self._job = job
        self._place = place
        self._progress = progress
        self._write_report = write_report
        self._search = BackOffSearch(steps)
        self._force = force
        self._check = check
        self._cache = StageCache(place.cache, progress)
        self._memory = Memory(place.run)
        self._record = RunRecord(place.run, job, steps)
        self._outputs: dict[str, dict[str, Artifact]] = {}
        self._entries: dict[str, Entry] = {}
        self._ran: list[str] = []

    def execute(self) -> Outcome:
        self._cache.clean()
        remove_drafts(self._place.run)
        try:
            index = 0
            while index < len(self._search.steps):
                index = self._advance(index)
        except BaseException as error:
            self._note_failure(error)
            raise
        steps = self._search.steps
        if len(steps) == len(self._job.recipe.stages):
            self._memory.forget_all_but([step.name for step in steps])
        self._finish("done")
        return Outcome(self._record.value, tuple(dict.fromkeys(self._ran)))

    def _advance(self, index: int) -> int:
        """Bring one step's result in. Gives the index of the step to go on with.

        Raises:
            GateError: the result misses a gate, and no other trial is due.
        """
        step = self._search.steps[index]
        entry, inputs, cached = self._result(step)
        self._memory.note(step, entry)
        self._entries[step.name] = entry
        gates = check_gates(step, {name: each.metrics for name, each in self._entries.items()})
        self._record.add(step, entry, inputs, gates, cached)
        if back_off := back_off_of(step):
            (prune,) = (each for each in self._search.steps if each.name == back_off.stage)
            self._record.add_trial(self._search.trial, prune, step, gates, self._entries)
        again = self._search.retreat(step, gates)
        if not cached:
            self._record.save()
        if again is not None:
            self._go_back(again, step, gates)
            return again
        self._require(step, gates)
        return index + 1

    def _result(self, step: Step) -> tuple[Entry, Mapping[str, Input], bool]:
        """The step's stored result, made if need be and published; its inputs; if it was there."""
        inputs = resolve_inputs(step, self._job.named, self._outputs)
        material = key_material(step, self._job, inputs)
        stage, key = step.kind.name, key_of(material)
        with self._cache.exclusive(stage, key):
            forced = step.name in self._force
            entry, reason = find(step, material, self._cache, self._memory, forced)
            cached = entry is not None
            self._say(step, f"runs ({reason})" if reason else "cached")
            if entry is None:
                if forced:
                    self._cache.drop_scratch(stage, key)
                entry = self._make(step, inputs, material, key)
            self._publish(step, entry)
            self._cache.drop_scratch(stage, key)
        return entry, inputs, cached

    def _go_back(self, index: int, missed: Step, gates: Sequence[GateResult]) -> None:
        again = self._search.steps[index]
        unit, value = written(again.config.target)
        reasons = "; ".join(gate.verdict for gate in gates if not gate.passed)
        self._progress.say(
            f"'{missed.name}' misses its gate: {reasons}. Trial {self._search.trial}: "
            f"'{again.name}' with target {unit} {value:g}",
            important=True,
        )
        self._record.forget_from(again.name)

    def _say(self, step: Step, what: str) -> None:
        self._progress.say(f"[{step.number}/{len(self._job.recipe.stages)}] {step.name}: {what}")

    def _make(
        self, step: Step, inputs: Mapping[str, Input], material: Mapping[str, Any], key: str
    ) -> Entry:
        if not self._ran:
            self._check(self._job, self._search.steps, self._place.cache)
        self._ran.append(step.name)
        stage, recipe = step.kind.name, self._job.recipe
        shared = self._place.cache / _SHARED
        shared.mkdir(exist_ok=True)
        with self._cache.writing(stage, key) as out:
            context = Context(
                data=self._job.data,
                imgsz=recipe.imgsz,
                seed=recipe.seed,
                device=recipe.device,
                workers=recipe.workers,
                out=out,
                scratch=self._cache.scratch(stage, key),
                shared=shared,
                progress=self._progress,
            )
            started = time.perf_counter()
            artifacts = {name: item.artifact for name, item in inputs.items()}
            result = step.kind.function()(step.config, artifacts, context)
            return self._cache.store(out, key, result, material, time.perf_counter() - started)

    def _publish(self, step: Step, entry: Entry) -> None:
        folder = self._place.run / step.folder
        for file in entry.files.values():
            link_or_copy(entry.folder / file.path, folder / file.path)
        # later stages read the published files: another run may replace the cache's
        self._outputs[step.name] = {
            name: Artifact(folder / file.path, file.sha256) for name, file in entry.files.items()
        }

    def _require(self, step: Step, gates: Sequence[GateResult]) -> None:
        missed = [str(gate) for gate in gates if not gate.passed]
        if missed:
            tried = f" in all {trials} trials" if (trials := self._search.trial) > 1 else ""
            raise GateError(
                f"'{step.name}' misses its accept gate{tried}: {'; '.join(missed)}. "
                f"Its result is kept in '{self._place.run / step.folder}'"
            )

    def _note_failure(self, error: BaseException) -> None:
        if isinstance(error, GateError):
            self._finish("gate", str(error))
        elif self._record.stages or self._ran:
            status = _status(error)
            with suppress(Exception):  # a full disk must not hide why the run ended
                if status == "stopped":
                    self._record.finish(status, str(error))
                else:
                    self._finish(status, str(error))

    def _finish(self, status: str, error: str = "") -> None:
        folder = self._place.run
        write_text(folder / "recipe.yaml", resolved_recipe(self._job))
        changed = self._record.finish(status, error)
        if changed or not all((folder / name).exists() for name in _REPORTS):
            self._write_report(folder)


def _status(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    # a refusal of the bench is no ``GateError``: it is known by its exit code
    return "gate" if getattr(error, "exit_code", None) == GateError.exit_code else "failed"
