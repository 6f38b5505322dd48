"""One connection to a board: requests to the agent there, and its answers."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.remote.agent import MARK
from bench.remote.answers import has, readable, unexpected_answer
from bench.remote.ssh import LOST, connection_fault, ssh_command

_CHUNK = 1 << 18
_NOT_FOUND = 127
_SHOWN = 600
_TOO_OLD = "compress-bench needs Python 3.8, here is "
# Reads the agent's source from stdin and runs it. Constant, and the same to every login shell.
_BOOTSTRAP = (
    "import sys;b=sys.stdin.buffer;c=b.read(int(b.readline()));"
    f'sys.version_info<(3,8) and sys.exit("{_TOO_OLD}%d.%d"%sys.version_info[:2]);'
    "exec(c)"
)


class Refusal(BenchError):
    """The agent could not do what it was asked."""


class Busy(Refusal):
    """Another command has the job."""


class Full(Refusal):
    """The disk there has no room."""


_REFUSALS = {"busy": Busy, "full": Full}
_REFUSED = {"refused": str, "error": str}
_HELLO = "a word that it is there"
# what an answer has to hold; those of other requests are empty
_ANSWERS: dict[str, dict[str, type]] = {
    _HELLO: {"python": str},
    "open": {"folder": str, "lacking": list, "missing": list, "now": float},
    "look": {"running": bool, "done": bool, "log": str, "offset": int},
    "fetch": {"text": str},
}


class Session:
    """A connection, open inside the ``with`` block. What it started there goes on behind it."""

    def __init__(self, host: str, options: Sequence[str] = ()) -> None:
        """Name the board; see ``bench.remote.ssh.ssh_command``."""
        self.host = host
        self._options = options
        self._command = ssh_command(host, options, f"python3 -c '{_BOOTSTRAP}'")

    def __enter__(self) -> Session:
        """Connect and start the agent.

        Raises:
            ConnectionLost: the board cannot be reached.
            BenchError: it does not let us in, or has no fitting Python.
        """
        self._complaints = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            start_new_session=True,  # Ctrl-C is for us, not for the connection
        )
        source = Path(__file__).with_name("agent.py").read_bytes()
        try:
            self._send(b"%d\n%s" % (len(source), source))
            self._answer(_HELLO)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Disconnect; the agent ends with it."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._complaints.close()

    def ask(self, request: str, **fields: Any) -> dict[str, Any]:
        """Have the agent do ``request``; see its methods ``do_...``.

        Raises:
            Refusal: it cannot.
            ConnectionLost: it is out of reach.
            BenchError: what answers is not the agent.
        """
        self._send(json.dumps({"do": request, **fields}).encode() + b"\n")
        return self._answer(request)

    def put(
        self, name: str, sha256: str, chunks: Iterator[bytes], stopped: Callable[[], bool]
    ) -> bool:
        """Send a file. False, and nothing of it is there, where it was stopped or cannot be read.

        Raises:
            Refusal: the board has no room, or it came damaged.
            ConnectionLost: the board is out of reach.
        """
        self._send(json.dumps({"do": "put", "name": name, "sha256": sha256}).encode() + b"\n")
        whole = self._send_chunks(chunks, stopped)
        self._send(b"0\n" if whole else b"-1\n")
        self._answer("put")
        return whole

    def _send_chunks(self, chunks: Iterator[bytes], stopped: Callable[[], bool]) -> bool:
        try:
            for chunk in chunks:
                if stopped():
                    return False
                self._send(b"%d\n%s" % (len(chunk), chunk))
        except OSError:
            return False
        return True

    def _send(self, content: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(content)
            stdin.flush()
        except OSError:
            raise self._ended(b"") from None

    def _answer(self, request: str) -> dict[str, Any]:
        stdout, unexpected = self._process.stdout, b""
        assert stdout is not None
        for line in stdout:
            if line.startswith(MARK.encode()):
                return self._checked(request, line[len(MARK) :])
            unexpected += line
        raise self._ended(unexpected)

    def _checked(self, request: str, said: bytes) -> dict[str, Any]:
        """An answer. Its names of files are left as they are, since they are compared."""
        try:
            answer = json.loads(said)
        except (ValueError, RecursionError):
            answer = None
        refused = isinstance(answer, dict) and "refused" in answer
        if not has(answer, _REFUSED if refused else _ANSWERS.get(request, {})):
            wanted = request if request == _HELLO else f"the answer to '{request}'"
            raise unexpected_answer(self.host, wanted, said.decode("utf-8", "replace"))
        if refused:
            kind = _REFUSALS.get(answer["refused"], Refusal)
            raise kind(f"'{self.host}': {readable(answer['error'])}")
        return dict(answer)

    def _ended(self, unexpected: bytes) -> BenchError:
        """Why there is no agent any more."""
        code = self._process.wait()
        self._complaints.seek(0)
        complaint = self._complaints.read().decode("utf-8", "replace")
        said = readable((unexpected.decode("utf-8", "replace") + complaint).strip()[-_SHOWN:])
        if code == LOST:
            return connection_fault(self.host, self._options, complaint)
        if _TOO_OLD in complaint:
            found = readable(complaint.split(_TOO_OLD)[1].strip().split("\n")[0])
            return BenchError(
                f"'{self.host}' has Python {found}; the bench needs 3.8 or newer (JetPack 5). "
                "Install one and put it first on PATH as python3."
            )
        if code == _NOT_FOUND:
            return BenchError(
                f"'{self.host}' has no 'python3' on the PATH of a command over ssh (sudo apt "
                f"install python3 python3-numpy). It says: {said}"
            )
        return BenchError(
            f"'{self.host}' does not run what the bench sends (exit {code}): does it give you a "
            f"shell? It says: {said or 'nothing.'}"
        )


def chunks_of(content: bytes | Path) -> Iterator[bytes]:
    """The bytes of a file, or those given, in pieces to send."""
    if isinstance(content, bytes):
        yield from (content[at : at + _CHUNK] for at in range(0, len(content), _CHUNK))
        return
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
