"""What runs on the board while a command is connected: keeps the job's folder, starts its steps.

Sent as source and run by the board's Python, so it imports nothing but the standard library. Takes
requests from stdin, a JSON document a line; answers on stdout, a marked JSON document a line. It
ends with its connection; the steps that it started go on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

MARK = "@compress-bench "
_ROOT = "~/.cache/compress-bench"
_SILENCE_SECONDS = 60  # so long without a word from the other side: the connection is dead
_BUSY_SECONDS = 2.0  # a connection that is gone takes a moment to notice
_SPARE_BYTES = 32 << 20
_LOG_BYTES = 1 << 16  # of a log, in one answer
_PART = ".part"


class Refused(Exception):
    """What the other side has to know; ``kind`` lets it react."""

    def __init__(self, kind: str, message: str) -> None:
        """Keep both."""
        self.kind = kind
        super().__init__(message)


class Job:
    """The folder of one job. Its ``session`` lock is held by the command that is connected."""

    def __init__(self, identity: str) -> None:
        """Make the folder ready, and take it for this connection.

        Raises:
            Refused: another command has it.
        """
        self.folder = Path(_ROOT).expanduser() / identity
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            session = _locked(self.folder / "session.lock")
            if session is not None:
                self._session = session
                return
            if time.monotonic() > deadline:
                raise Refused(
                    "busy", "another command is at this very job there. Wait until it is done."
                )
            time.sleep(0.05)

    def inside(self, name: str) -> Path:
        """The file ``name`` of the job.

        Raises:
            Refused: it would lie elsewhere.
        """
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise Refused("fault", f"'{name}' is no name inside a job")
        return self.folder / path

    def missing(self, wanted: dict[str, str]) -> list[str]:
        """The files among ``wanted``, name to SHA-256, that are not there or not whole."""
        return [name for name, sha256 in wanted.items() if _hash(self.inside(name)) != sha256]

    def start(self, step: str, arguments: list[str]) -> None:
        """Run Python with ``arguments`` in the background, apart from this connection.

        The process inherits the lock, which the system takes back when it ends, however that is.
        """
        lock = _locked(self.folder / (step + ".lock"))
        if lock is None:
            return
        environment = dict(os.environ)
        paths = ["code.zip", environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        environment["PYTHONUNBUFFERED"] = "1"
        # what libraries keep for themselves goes with the job
        environment["XDG_CACHE_HOME"] = str(self.folder / "cache")
        with (self.folder / (step + ".log")).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=str(self.folder),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
        (self.folder / (step + ".pid")).write_text(str(process.pid))
        lock.close()

    def look(self, step: str, output: str, offset: int) -> dict[str, Any]:
        """Whether a step runs, whether it has given its output, and its log from ``offset`` on."""
        running = self._runs(step)  # first: it may end right after
        done = self.inside(output).is_file()
        log = self.folder / (step + ".log")
        text = b""
        if log.is_file():
            with log.open("rb") as file:
                file.seek(offset)
                text = file.read(_LOG_BYTES)
        words = text.decode("utf-8", "replace")
        return {"running": running, "done": done, "log": words, "offset": offset + len(text)}

    def stop(self, step: str, kill: bool) -> None:
        """Ask a step to end, or end it."""
        if self._runs(step):
            number = int((self.folder / (step + ".pid")).read_text())
            with suppress(ProcessLookupError):
                os.killpg(number, signal.SIGKILL if kill else signal.SIGTERM)

    def leave(self, keep: str | None) -> None:
        """Remove the folder; or keep it, and the result as ``keep``, so that it is not taken twice.

        The folder of all jobs goes with the last one.
        """
        if keep is not None:
            result = self.folder / "result.json"
            if result.is_file():
                result.replace(self.folder / keep)
            return
        shutil.rmtree(str(self.folder), ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()

    def _runs(self, step: str) -> bool:
        lock = _locked(self.folder / (step + ".lock"))
        if lock is not None:
            lock.close()
        return lock is None


def _locked(path: Path) -> IO[bytes] | None:
    """The file ``path``, locked; None if somebody else holds it, or it is gone meanwhile."""
    import fcntl  # the other side, which knows this module's mark, may be without it

    try:
        file = path.open("ab")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file
    except OSError:
        pass
    file.close()
    return None


def _hash(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


class Agent:
    """Answers requests; see the methods ``do_...``."""

    def __init__(self, source: IO[bytes], answer: Callable[[dict[str, Any]], None]) -> None:
        """Take unbuffered input, so that waiting for it can end."""
        self._source = source
        self._answer = answer
        self._job: Job | None = None

    def serve(self) -> None:
        """Until the connection ends, by EOFError."""
        self._answer({"python": sys.version.split()[0]})
        while True:
            request = json.loads(self._line())
            try:
                answer = getattr(self, "do_" + request.pop("do"))(**request)
            except Refused as refusal:
                answer = {"refused": refusal.kind, "error": str(refusal)}
            except OSError as error:
                answer = {"refused": "fault", "error": str(error)}
            self._answer(answer or {})

    def do_open(self, id: str, modules: list[str], wanted: dict[str, str]) -> dict[str, Any]:
        """Take the job; tell which modules and files are not there."""
        lacking = [name for name in modules if importlib.util.find_spec(name) is None]
        self._job = Job(id)
        missing = self._job.missing(wanted)
        folder = str(self._job.folder)
        return {"folder": folder, "lacking": lacking, "missing": missing, "now": time.time()}

    def do_room(self, bytes: int) -> None:
        """Refuse where the disk has no room for so many."""
        free = shutil.disk_usage(str(self._own.folder)).free
        if free < bytes + _SPARE_BYTES:
            needed = bytes + _SPARE_BYTES
            raise Refused("full", f"{needed >> 20} MB are needed, {free >> 20} MB are free")

    def do_put(self, name: str, sha256: str) -> None:
        """Take a file: chunks, each behind its length; 0 ends it, and anything less throws it away.

        Raises:
            Refused: it cannot be written, or came other than it was sent.
        """
        path = self._own.inside(name)
        part = path.with_name(path.name + _PART)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._receive(part)
            if not whole:
                return
            if _hash(part) != sha256:
                raise Refused("fault", f"'{name}' came damaged")
            part.replace(path)
        except OSError as error:
            raise Refused("full", f"'{name}' cannot be written: {error.strerror}") from error
        finally:
            if part.exists():
                part.unlink()

    def do_start(self, step: str, arguments: list[str]) -> None:
        """Start a step, unless it runs already."""
        self._own.start(step, arguments)

    def do_look(self, step: str, output: str, offset: int) -> dict[str, Any]:
        """How a step fares."""
        return self._own.look(step, output, offset)

    def do_stop(self, step: str, kill: bool) -> None:
        """End a step."""
        self._own.stop(step, kill)

    def do_fetch(self, name: str) -> dict[str, Any]:
        """The text of a file."""
        return {"text": self._own.inside(name).read_text(encoding="utf-8")}

    def do_leave(self, keep: str | None) -> None:
        """Clean up."""
        self._own.leave(keep)

    @property
    def _own(self) -> Job:
        if self._job is None:
            raise Refused("fault", "no job is open")
        return self._job

    def _receive(self, part: Path) -> bool:
        """Whether it came to its end. Reads on after a fault, so that the other side is heard."""
        fault: OSError | None = None
        with part.open("wb", buffering=0) as file:
            while True:
                length = int(self._line())
                if length <= 0:
                    break
                chunk = self._exactly(length)
                try:
                    while chunk and fault is None:
                        chunk = chunk[file.write(chunk) :]
                except OSError as error:
                    fault = error
            if fault is not None:
                raise fault
            os.fsync(file.fileno())
        return length == 0

    def _exactly(self, count: int) -> bytes:
        chunks = []
        while count:
            chunk = self._heard(min(count, 1 << 20))
            chunks.append(chunk)
            count -= len(chunk)
        return b"".join(chunks)

    def _line(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._heard(1)
        return bytes(line)

    def _heard(self, count: int) -> bytes:
        """At least one byte."""
        if not select.select([self._source], [], [], _SILENCE_SECONDS)[0]:
            raise EOFError(f"nothing heard for {_SILENCE_SECONDS} s")
        chunk = self._source.read(count)
        if not chunk:
            raise EOFError("the connection ended")
        return chunk


def _tell(answer: dict[str, Any]) -> None:
    # on a line of its own, whatever a login shell has printed before
    sys.stdout.write("\n" + MARK + json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve this connection."""
    with open(0, "rb", buffering=0) as source, suppress(EOFError, BrokenPipeError):
        Agent(source, _tell).serve()


if __name__ == "__main__":
    main()
