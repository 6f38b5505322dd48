"""Several processes that do one work together, and end together.

ultralytics starts a script of its own for several GPUs, which can carry neither a module nor
extensions. Here the processes are spawned with both, and the first one says how far it is.
"""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from torch import distributed

from compress.errors import CompressError
from compress.progress import Task

STORE = "COMPRESS_PROCESS_STORE"  # names a file through which the processes find each other


def run_together(
    work: Callable[..., None], arguments: tuple[Any, ...], ranks: int, bar: Task
) -> None:
    """Do ``work(*arguments, bar)`` in ``ranks`` new processes; all of them end when one fails.

    Only the first one gets a bar, the others None. ``work`` and ``arguments`` are pickled.

    Raises:
        CompressError: as the process that failed first says it, or if one was killed.
        RuntimeError: with the traceback of anything else that it raised.
    """
    payload = pickle.dumps((work, arguments))
    context = get_context("spawn")
    started: dict[connection.Connection, SpawnProcess] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank in range(ranks):
                ours, theirs = context.Pipe(duplex=False)
                started[ours] = context.Process(target=_process, args=(theirs, payload))
                # ultralytics reads these when it is imported, so they must be there before
                with _environment(rank, ranks, Path(folder) / "store"):
                    started[ours].start()
                theirs.close()
            _follow(started, bar)
        finally:
            for process in started.values():
                if process.pid is not None:
                    process.kill()
                    process.join()


@contextmanager
def _environment(rank: int, ranks: int, store: Path) -> Iterator[None]:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, STORE: store}
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name)
        os.environ.update(before)


def _follow(started: Mapping[connection.Connection, SpawnProcess], bar: Task) -> None:
    """Pass on what the processes send, until all have ended."""
    running = dict(started)
    while running:
        for channel in connection.wait(list(running)):
            assert isinstance(channel, connection.Connection)
            try:
                kind, *values = channel.recv()
            except EOFError:
                process = running.pop(channel)
                process.join()
                if process.exitcode:
                    raise CompressError(_ended(process.exitcode)) from None
                continue
            if kind == "advance":
                bar.advance(*values)
                continue
            # who loses its partner fails as well: the partner is to blame
            _raise_if_killed(list(started.values()))
            raise (CompressError if kind == "fault" else RuntimeError)(*values)


def _raise_if_killed(processes: Sequence[SpawnProcess]) -> None:
    """A killed process needs a moment until all of its threads are gone and its code is known."""
    ending = connection.wait([process.sentinel for process in processes], timeout=1)
    for process in processes:
        if process.sentinel in ending:
            process.join()
        if process.exitcode:
            raise CompressError(_ended(process.exitcode))


def _ended(code: int) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return (
        f"Training stopped: one of its processes {how}. The finished epochs are kept: the same "
        "command goes on. If memory ran out, lower `batch` or `workers`."
    )


class _Bar:
    """The first process' bar, shown by the parent."""

    def __init__(self, channel: connection.Connection) -> None:
        self.channel = channel

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.channel.send(("advance", steps, note))


def _process(channel: connection.Connection, payload: bytes) -> None:
    """What each process does; after a failure it waits to be ended, so that it is the only one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    try:
        work, arguments = pickle.loads(payload)
        work(*arguments, _Bar(channel) if os.environ["RANK"] == "0" else None)
        if distributed.is_initialized():
            distributed.barrier()  # nobody leaves while another still listens
            distributed.destroy_process_group()
    except CompressError as error:
        channel.send(("fault", str(error)))
        threading.Event().wait()
    except Exception:
        channel.send(("crash", traceback.format_exc()))
        threading.Event().wait()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
