"""The OpenSSH client's command line, and what its complaints mean."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence

from bench.errors import BenchError
from bench.remote.answers import readable

LOST = 255  # what ssh exits with where it is not the command that failed
# The first value that ssh is given counts: these cannot be changed,
_FIXED = ("BatchMode=yes", "RemoteCommand=none", "RequestTTY=no", "ClearAllForwardings=yes")
# and these can.
_USUAL = (
    "ConnectTimeout=15",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=4",
    "ForwardX11=no",
    "LogLevel=ERROR",
)
_SHOWN = 600


class ConnectionLost(BenchError):
    """The board cannot be reached at this moment; it may be later."""


def ssh_command(host: str, options: Sequence[str], command: str) -> list[str]:
    """What to run for ``command`` on ``host``, by the user's own configuration, keys and agent.

    Args:
        host: a name of the user's configuration, ``user@board`` or ``ssh://user@board:port``.
        options: such as ``Port=2222``, as ``ssh -o`` takes them.
        command: for the shell there; no text from outside may be in it.

    Raises:
        BenchError: there is no ssh, or ``host`` is none.
    """
    if not host or host.startswith("-") or re.search(r"[\s\x00-\x1f\x7f]", host):
        raise BenchError(f"'{host}' is no host: give user@board, or a name from ~/.ssh/config.")
    program = shutil.which("ssh")
    if program is None:
        raise BenchError(
            "The OpenSSH client 'ssh' is not installed or not on PATH; --host needs it "
            "(sudo apt install openssh-client)."
        )
    wanted = [f"-o{option}" for option in (*_FIXED, *options, *_USUAL)]
    return [program, *wanted, "--", host, command]


def connection_fault(host: str, options: Sequence[str], complaint: str) -> BenchError:
    """The error behind what ssh wrote; ``ConnectionLost`` where waiting may help."""
    told = _told(complaint)
    target = " ".join([*(f"-o {shlex.quote(option)}" for option in options), shlex.quote(host)])
    for words, lost, remedy in _MEANINGS:
        if re.search(words, complaint, re.IGNORECASE):
            kind = ConnectionLost if lost else BenchError
            return kind(f"'{host}': {remedy.format(target=target)} ssh says: {told}")
    return ConnectionLost(f"'{host}': the connection failed. ssh says: {told}")


def _told(complaint: str) -> str:
    lines = [line.strip(" @\r") for line in complaint.splitlines()]
    return readable(" ".join(line for line in lines if line))[-_SHOWN:] or "nothing."


_MEANINGS = (
    (
        r"HOST IDENTIFICATION HAS CHANGED|host key for .* has changed",
        False,
        "its host key is not the one that is known: the board was set up anew, or somebody "
        "listens in. Make sure which; then forget the old key (ssh-keygen -R) and run "
        "'ssh {target}' once by hand to see and accept the new one.",
    ),
    (
        r"host key verification failed|host key is known",
        False,
        "its host key is not known yet. Run 'ssh {target}' once by hand to see and accept it.",
    ),
    (
        r"permission denied|too many authentication failures",
        False,
        "the board does not let you in. A key has to do, since nobody can type a password here: "
        "'ssh-copy-id {target}', and ssh-add where the key has a passphrase.",
    ),
    (
        r"could not resolve hostname|name or service not known",
        True,
        "no such host is known here. Correct the name, or add it to ~/.ssh/config.",
    ),
    (
        r"connection refused",
        True,
        "nothing answers at its SSH port. Is the SSH server on (sudo apt install openssh-server), "
        "and the port right (--ssh-option Port=...)?",
    ),
    (
        r"timed out|no route to host|network is unreachable|host is down",
        True,
        "it cannot be reached. Is it switched on, and in this network?",
    ),
    (r"bad configuration option|unknown option|missing argument", False, "ssh refuses an option."),
)
