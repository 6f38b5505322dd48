"""Commands of the board's vendor: they may be missing, need root, or hang."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Find = Callable[[str], str | None]
    Run = Callable[[Sequence[str]], str | None]

_SECONDS = 5.0
_ADMIN_FOLDERS = ("/usr/sbin", "/usr/bin", "/sbin")  # a login over SSH may not look there


def find_command(name: str) -> str | None:
    """Where ``name`` lies."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_ADMIN_FOLDERS)))


def run_command(arguments: Sequence[str]) -> str | None:
    """What it printed; None where it is missing, fails, or takes longer than five seconds."""
    command = find_command(arguments[0])
    if command is None:
        return None
    try:
        done = subprocess.run(
            [command, *arguments[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
