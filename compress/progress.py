"""Progress of long steps: lines and bars with time left on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress


class Task(Protocol):
    """One long step."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count ``steps`` as done and show ``note`` behind the bar."""


class Progress(Protocol):
    """Where a stage tells how far it is."""

    def say(self, message: str, important: bool = False) -> None:
        """One line for the user. What is ``important`` (a warning) is shown in any case."""

    def task(self, title: str, total: int) -> AbstractContextManager[Task]:
        """A step of ``total`` parts, as a context manager that gives a ``Task``."""


class _BarTask:
    def __init__(self, bars: RichProgress, title: str, total: int) -> None:
        self._bars = bars
        self._id = bars.add_task(title, total=total, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._bars.update(self._id, advance=steps, note=note)


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        del steps, note


class ConsoleProgress:
    """Lines and bars on a terminal, on a pipe only what is important. All of it goes to stderr."""

    def __init__(self, quiet: bool = False) -> None:
        """``quiet`` makes a terminal as silent as a pipe."""
        self._console = Console(file=sys.stderr, highlight=False)
        self._shows = self._console.is_terminal and not quiet

    def say(self, message: str, important: bool = False) -> None:
        """Print one line, if somebody watches or it is ``important``."""
        if self._shows or important:
            self._console.print(message, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        """Show a bar for one long step."""
        if not self._shows:
            yield _SilentTask()
            return
        with RichProgress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self._console,
            transient=True,
        ) as bars:
            yield _BarTask(bars, title, total)
