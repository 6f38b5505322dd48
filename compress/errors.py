"""What a user can get wrong, as one family of exceptions.

Every message says what is wrong, where, why, and what to do. The command line prints the message
alone and exits with ``exit_code``; a traceback is only ever shown for a fault of our own.
"""

from __future__ import annotations

from dataclasses import dataclass


class CompressError(Exception):
    """A fault that the user can mend. ``exit_code`` is what the command line exits with."""

    exit_code = 2


class GateError(CompressError):
    """A result misses an ``accept`` gate of the recipe. The artifact that missed it is kept."""

    exit_code = 3


@dataclass(frozen=True, order=True)
class Problem:
    """One fault in a recipe. ``line`` and ``column`` count from 1; 0 where there is no place."""

    line: int
    column: int
    message: str


class RecipeError(CompressError):
    """All faults of one recipe at once, each as ``file:line:column: message``."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        """Keep ``problems`` in the order of the file; ``source`` is the recipe's file name."""
        self.source = source
        self.problems = sorted(problems)
        super().__init__("\n".join(self._line(problem) for problem in self.problems))

    def _line(self, problem: Problem) -> str:
        place = f":{problem.line}:{problem.column}" if problem.line else ""
        return f"{self.source}{place}: {problem.message}"
