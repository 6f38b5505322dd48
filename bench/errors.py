"""What a user of the bench can get wrong. The command line prints the message alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.alignment.convs import Misaligned


class BenchError(Exception):
    """A fault that the user can mend. ``exit_code`` is what the command line exits with."""

    exit_code = 2


class BenchAlignmentError(BenchError):
    """Files whose convolutions have ragged channels; ``misaligned`` maps a label to them."""

    exit_code = 3

    def __init__(self, message: str, misaligned: Mapping[str, Sequence[Misaligned]]) -> None:
        """Keep the offenders beside the ``message`` that lists them."""
        self.misaligned = misaligned
        super().__init__(message)


class BenchStopped(BenchError):
    """A signal came before there was anything to keep."""

    exit_code = 130
