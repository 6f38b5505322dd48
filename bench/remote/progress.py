"""What a step on the board writes while it runs: progress, faults, and what its libraries say."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bench.errors import BenchError, BenchStopped
from bench.remote.answers import has, json_of, readable
from bench.worker_lines import FAULT, PROGRESS

if TYPE_CHECKING:
    from bench.loop import ProgressCallback

_LINES_KEPT = 12


class StepLog:
    """The log of one step, read as it grows. ``offset`` is where to go on."""

    def __init__(self, progress: ProgressCallback | None) -> None:
        """Hand new percent points to ``progress``."""
        self.offset = 0
        self._progress = progress
        self._rest = ""
        self._said: deque[str] = deque(maxlen=_LINES_KEPT)
        self._fault: dict[str, object] | None = None

    def take(self, text: str, offset: int) -> None:
        """Read what came since the last look."""
        self.offset = offset
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._read(line)

    def fault(self) -> BenchError:
        """Why the step has no result: what it said, or that it died."""
        if self._fault is not None:
            code, text = self._fault.get("exit_code"), str(self._fault["error"])
            if code == BenchStopped.exit_code:
                return BenchStopped(text)
            return BenchError(text)
        last = readable("\n".join([*self._said, self._rest])).strip() or "nothing"
        return BenchError(
            "the process there ended without a result: it was killed (out of memory?), it crashed, "
            f"or the board was restarted. Its last words: {last}"
        )

    def _read(self, line: str) -> None:
        try:
            if line.startswith(PROGRESS):
                points = int(line[len(PROGRESS) :])
                if self._progress is not None:
                    self._progress(points)
                return
            if line.startswith(FAULT):
                fault = json_of(line[len(FAULT) :])
                if has(fault, {"error": str}):
                    self._fault = fault
                    return
        except ValueError:
            pass  # then a library wrote it
        if line.strip():
            self._said.append(line.strip())
