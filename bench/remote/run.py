"""Measure files on a board that is reached over SSH."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, BenchStopped
from bench.interrupt import stop_at_interrupt
from bench.remote.command import Command
from bench.remote.job import make_job
from bench.remote.session import Busy, Session
from bench.remote.ssh import ConnectionLost
from bench.results.schema import BenchResult
from bench.settings import Settings

if TYPE_CHECKING:
    from bench.loop import ProgressCallback
    from bench.remote.job import ReadSource

    Tell = Callable[[str], None]

# how long to wait before each try to reach a board again that was reached before
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0)
_NAP_SECONDS = 0.1


def bench_on_host(
    host: str,
    paths: Sequence[Path],
    settings: Settings | None = None,
    *,
    runtimes: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    align_labels: Collection[str] | None = None,
    progress: ProgressCallback | None = None,
    keep: bool = False,
    ssh_options: Sequence[str] = (),
    read_source: ReadSource | None = None,
    tell: Tell | None = None,
    waits: Sequence[float] = WAITS,
) -> BenchResult:
    """What ``bench.run.bench_files`` gives, measured on ``host``.

    A job that a broken connection left there is picked up by the same call. Ctrl-C ends the
    measurement there too, and what was measured until then is the result.

    Args:
        host: as ``ssh`` takes it.
        paths: as there; an ``.onnx`` that TensorRT is to run becomes an engine on the board.
        settings: as there.
        runtimes: as there.
        labels: as there.
        align_labels: as there; checked before anything is sent.
        progress: as there.
        keep: leave files, engines and result on the board.
        ssh_options: such as ``Port=2222``, as ``ssh -o`` takes them.
        read_source: what the board has to know of an ONNX file to build an engine.
        tell: is told what goes on, a sentence each.
        waits: seconds before each try to reach the board again.

    Raises:
        BenchAlignmentError: a file misses ``settings.align``; nothing was sent.
        BenchStopped: a signal ended it before there was a single round.
        BenchError: the board cannot be reached, or cannot do it; says why.
    """
    settings = settings or Settings()
    job = make_job(paths, settings, runtimes, labels, align_labels, read_source)
    with stop_at_interrupt() as stopped:
        say = tell or _silent
        command = Command(host, job, settings, progress, keep, say, stopped)
        while True:
            try:
                with Session(host, ssh_options) as session:
                    return command.over(session)
            except (ConnectionLost, Busy) as error:
                if not command.folder:  # it was never reached
                    raise
                if stopped() or command.failures >= len(waits):
                    if command.result is None:
                        kind = BenchStopped if stopped() else BenchError
                        raise kind(_out_of_reach(host, command, error)) from error
                    say(f"'{host}' is out of reach; '{command.folder}' stays behind there.")
                    return command.result
                seconds = waits[command.failures]
                say(f"The connection to '{host}' is lost; again in {seconds:g} s. {error}")
                _wait(seconds, stopped)
                command.failures += 1


def _silent(text: str) -> None:
    del text


def _wait(seconds: float, stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stopped():
        time.sleep(min(_NAP_SECONDS, seconds))


def _out_of_reach(host: str, command: Command, error: BenchError) -> str:
    return (
        f"'{host}' is out of reach. What runs there goes on, and the same command picks it up "
        f"later (its folder there: {command.folder}). {error}"
    )
