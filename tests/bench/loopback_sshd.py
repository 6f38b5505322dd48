"""A real sshd on this machine's loopback: for the tests a board is a key with its own home."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
# on CI a server that is not there is a fault, or nothing of this would ever be tested
needs_sshd = pytest.mark.skipif(
    not Path(SSHD).is_file() and not os.environ.get("CI"), reason="needs an OpenSSH server"
)
# Runs a server that ends with the process that started it, even if that is killed.
_TIED = """\
import ctypes, os, signal, sys
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):  # else it was killed before
    os.execv(sys.argv[2], sys.argv[2:])
"""
_PRIVILEGE_FOLDER = Path("/run/sshd")  # sshd wants it where it runs as root
_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PermitUserEnvironment yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
"""


@dataclass
class Board:
    """What a test reaches over ssh. ``home`` is its home there, ``path`` the front of its PATH."""

    host: str
    options: list[str]
    home: Path
    path: Path

    @property
    def jobs(self) -> Path:
        """Where the bench leaves its jobs."""
        return self.home / ".cache" / "compress-bench"

    def job(self) -> Path:
        """The one job there."""
        [folder] = self.jobs.iterdir()
        return folder

    def worker(self) -> int:
        """The process that measures."""
        return int((self.job() / "bench.pid").read_text())

    def program(self, name: str, script: str) -> None:
        """Put a program on PATH."""
        file = self.path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)


@dataclass
class Sshd:
    """A server in ``folder``. It can be cut off and come back."""

    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def up(self) -> None:
        """Listen."""
        tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())]
        self._process = subprocess.Popen(
            [*tied, SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stderr=(self.folder / "sshd.log").open("ab"),
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise RuntimeError((self.folder / "sshd.log").read_text())

    def down(self) -> None:
        """Go away, with all connections."""
        sessions = self._sessions()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
        _kill(sessions)

    def cut(self) -> None:
        """End all connections as a lost network would: nobody says good-bye."""
        _kill(self._sessions())

    def board(self, home: Path, environment: dict[str, str] | None = None) -> Board:
        """A board of its own: what it sees is this machine with another home."""
        home.mkdir()
        path, secret = home / "programs", home.with_name(f"{home.name}.key")
        path.mkdir()
        board = Board("127.0.0.1", [], home, path)
        board.program("python3", f'exec {sys.executable} "$@"')
        make_key(secret)
        given = {"HOME": home, "PATH": f"{path}:/usr/bin:/bin", **(environment or {})}
        told = ",".join(f'environment="{name}={value}"' for name, value in given.items())
        with (self.folder / "authorized_keys").open("a") as keys:
            keys.write(f"{told} {secret.with_name(secret.name + '.pub').read_text()}")
        known = home.with_name(f"{home.name}.known_hosts")
        public = (self.folder / "host_key.pub").read_text().split()[:2]
        known.write_text(f"[127.0.0.1]:{self.port} {' '.join(public)}\n")
        board.options += [
            f"Port={self.port}",
            f"IdentityFile={secret}",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            f"UserKnownHostsFile={known}",
            "GlobalKnownHostsFile=/dev/null",
        ]
        return board

    def _sessions(self) -> list[int]:
        """The server's processes that hold a connection."""
        if self._process is None:
            return []
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                number, rest = status.read_text().split(" (", 1)
            except OSError:  # it ended meanwhile
                continue
            if int(rest.rsplit(") ", 1)[1].split()[1]) == self._process.pid:
                found.append(int(number))
        return found


@contextmanager
def sshd_in(folder: Path) -> Iterator[Sshd]:
    """A server of its own inside the block."""
    if os.geteuid() == 0:
        _PRIVILEGE_FOLDER.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    make_key(folder / "host_key")
    (folder / "authorized_keys").touch(mode=0o600)
    (folder / "sshd_config").write_text(_CONFIG.format(folder=folder, port=port))
    server = Sshd(folder, port)
    server.up()
    try:
        yield server
    finally:
        server.down()


def make_key(path: Path) -> None:
    """A key pair without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True)


def _kill(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
