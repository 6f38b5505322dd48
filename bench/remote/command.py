"""One job on a board: send, start, follow, fetch, clean up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, BenchStopped
from bench.remote.answers import has, json_of, readable, unexpected_answer
from bench.remote.job import RESULT, Job, Step
from bench.remote.parcels import Parcel
from bench.remote.progress import StepLog
from bench.remote.session import Full, Session, chunks_of
from bench.remote.ssh import ConnectionLost
from bench.results.files import checked
from bench.results.schema import BenchResult
from bench.settings import Settings

if TYPE_CHECKING:
    from bench.loop import ProgressCallback

    Tell = Callable[[str], None]

_FIRST_LOOK, _LAST_LOOK = 0.05, 0.5
_END_SECONDS = 30.0  # for what was asked to end
_CLOCK_SECONDS = 60.0  # so far a clock may be off
_KEPT = "result-fetched.json"
_REMEDIES = {
    "tensorrt": "on a Jetson it comes with JetPack (sudo apt install python3-libnvinfer)",
    "numpy": "sudo apt install python3-numpy",
    "PIL": "sudo apt install python3-pil, or give images as .npy, .ppm or .bmp",
}
_REMEDY = "install it for the python3 that a command over ssh finds (python3 -m pip install)"


class Command:
    """A job from sending to cleaning up, over as many connections as it takes.

    ``folder`` is where it lies on the board, empty until that was reached. ``failures`` counts the
    connections that were lost since a step was last seen. ``result`` is there once it was fetched.
    """

    def __init__(
        self,
        host: str,
        job: Job,
        settings: Settings,
        progress: ProgressCallback | None,
        keep: bool,
        tell: Tell,
        stopped: Callable[[], bool],
    ) -> None:
        """See ``bench.remote.run.bench_on_host``; ``stopped`` is whether to end early."""
        self.folder = ""
        self.failures = 0
        self.result: BenchResult | None = None
        self._host = host
        self._job = job
        self._settings = settings
        self._keep = keep
        self._tell = tell
        self._stopped = stopped
        self._progress = progress
        self._ahead = 0.0  # seconds of the clock there before ours
        self._logs: dict[str, StepLog] = {}  # of the steps that were started or found running

    def over(self, session: Session) -> BenchResult:
        """All that is left to do, over one connection.

        Raises:
            ConnectionLost: it broke; what was reached is found again.
            BenchStopped: a signal ended it before there was a single round.
            BenchError: the board cannot do it. Its folder there is gone then.
        """
        job = self._job
        hashes = {parcel.name: parcel.sha256 for parcel in job.parcels}
        opened = session.ask("open", id=job.id, modules=job.modules, wanted=hashes)
        self.folder = readable(opened["folder"])
        self._ahead = opened["now"] - time.time()
        try:
            if self.result is None:
                self._require([readable(name) for name in opened["lacking"]])
                self._send(session, opened["missing"])
                for step in job.steps:
                    self._follow(session, step)
                self.result = self._fetched(session)
        except ConnectionLost:
            raise
        except Exception:
            session.ask("leave", keep=_KEPT if self._keep else None)
            raise
        session.ask("leave", keep=_KEPT if self._keep else None)
        return self.result

    def _require(self, lacking: Sequence[str]) -> None:
        if lacking:
            raise BenchError(
                " ".join(
                    f"'{self._host}' lacks '{name}': {_REMEDIES.get(name, _REMEDY)}."
                    for name in lacking
                )
            )

    def _send(self, session: Session, missing: Sequence[str]) -> None:
        parcels = [parcel for parcel in self._job.parcels if parcel.name in missing]
        if not parcels:
            return
        total = sum(parcel.bytes for parcel in parcels)
        self._tell(f"Sending {len(parcels)} files, {total / 1e6:.1f} MB, to '{self._host}'.")
        try:
            session.ask("room", bytes=total * (1 + len(self._job.built)))
            for parcel in parcels:
                chunks = chunks_of(parcel.content)
                if not session.put(parcel.name, parcel.sha256, chunks, self._stopped):
                    raise self._unsent(parcel)
        except Full as refusal:
            raise BenchError(
                f"{self._in_our_words(str(refusal))}: the disk there has no room for the files. "
                "What was copied is removed; free some space."
            ) from refusal

    def _unsent(self, parcel: Parcel) -> BenchError:
        if self._stopped():
            return BenchStopped("stopped before anything was measured.")
        return BenchError(f"'{parcel.content!s}' cannot be read any more.")

    def _follow(self, session: Session, step: Step) -> None:
        """Start ``step`` unless it runs or is done, and wait for its end.

        One that ended without its output is started again, but not within the same command.
        """
        log = self._logs.get(step.name) or StepLog(self._progress)
        seen = session.ask("look", step=step.name, output=step.output, offset=log.offset)
        if seen["running"] or seen["done"]:
            state = "goes on" if seen["running"] else "is done already"
            self._tell(f"'{self._host}': {step.title} {state}.")
        elif self._stopped():
            raise BenchStopped("stopped before anything was measured.")
        elif step.name not in self._logs:
            session.ask("start", step=step.name, arguments=step.arguments)
            self._tell(f"'{self._host}': {step.title} has begun.")
        self._logs[step.name] = log
        if not self._ended(session, step, log):
            raise self._fault_of(log)

    def _ended(self, session: Session, step: Step, log: StepLog) -> bool:
        """Whether ``step`` gave its output. Looks ever less often: each look costs the board."""
        pause, told_to_stop = _FIRST_LOOK, 0.0
        while True:
            seen = session.ask("look", step=step.name, output=step.output, offset=log.offset)
            self.failures = 0
            news = seen["offset"] > log.offset
            log.take(seen["log"], seen["offset"])
            if not seen["running"] and not news:
                return bool(seen["done"])
            if self._stopped():
                overdue = told_to_stop and time.monotonic() > told_to_stop + _END_SECONDS
                if not told_to_stop:
                    self._tell(f"Asking '{self._host}' to stop.")
                if overdue or not told_to_stop:
                    session.ask("stop", step=step.name, kill=bool(overdue))
                told_to_stop = told_to_stop or time.monotonic()
            time.sleep(pause)
            pause = min(pause * 1.5, _LAST_LOOK)

    def _fault_of(self, log: StepLog) -> BenchError:
        fault = log.fault()
        if self._stopped():
            return BenchStopped("stopped before anything was measured.")
        return type(fault)(f"'{self._host}': {self._in_our_words(str(fault))}")

    def _in_our_words(self, text: str) -> str:
        """What the board says, with our names of the files."""
        text = text.replace(f"{self.folder}/", "")
        for there, here in self._job.names.items():
            text = text.replace(readable(there), here)
        return text

    def _fetched(self, session: Session) -> BenchResult:
        """The result, with our names, settings and labels in it."""
        result = checked(self._document(session, RESULT), f"the result of '{self._host}'")
        result["host"] = self._host
        if abs(self._ahead) > _CLOCK_SECONDS:  # many boards have no battery for theirs
            result["created"] = self._in_our_time(result["created"])
        result["settings"] = asdict(self._settings)
        result["warnings"] = [self._in_our_words(text) for text in result["warnings"]]
        for row in result["rows"]:
            row["file"] = self._in_our_words(row["file"])
            engine = self._job.built.get(row["label"])
            if engine is not None:
                facts = self._document(session, f"{engine}.json")
                if not has(facts, {"tensorrt": str, "notes": list}):
                    raise unexpected_answer(self._host, "the facts of its engine", str(facts))
                row["notes"] = [
                    f"the engine was built there by TensorRT {facts['tensorrt']}",
                    *facts["notes"],
                    *row["notes"],
                ]
        return result

    def _document(self, session: Session, name: str) -> Any:
        """A JSON file of the job."""
        text = session.ask("fetch", name=name)["text"]
        try:
            return json_of(text)
        except ValueError:
            raise unexpected_answer(self._host, f"the JSON of '{name}'", text) from None

    def _in_our_time(self, created: str) -> str:
        try:
            ours = datetime.fromisoformat(created) - timedelta(seconds=self._ahead)
        except (ValueError, OverflowError):
            raise unexpected_answer(self._host, "when it measured", created) from None
        return ours.isoformat(timespec="seconds")
