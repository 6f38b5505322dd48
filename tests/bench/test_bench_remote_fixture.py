"""The server that the tests start: it ends with them, and CI does not go without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loopback_sshd import needs_sshd

HERE = Path(__file__).parent
_KILLED = """\
import os, signal, sys
from pathlib import Path
from loopback_sshd import sshd_in
with sshd_in(Path(sys.argv[1])) as server:
    print(server._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
_MARK = "from loopback_sshd import needs_sshd; print(needs_sshd.args[0])"


@needs_sshd
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_server_ends_with_those_who_are_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        server = int(killed.stdout.readline())
        try:
            killed.communicate(timeout=10)  # the server has this pipe, too
        except subprocess.TimeoutExpired:
            os.kill(server, 9)
            raise


@pytest.mark.parametrize(("ci", "skipped"), [({}, "True"), ({"CI": "true"}, "False")])
def test_a_machine_without_a_server_skips_but_ci_fails(ci: dict[str, str], skipped: str) -> None:
    script = "import shutil; shutil.which = lambda name: '/nowhere/sshd'\n" + _MARK
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=HERE,
        env={**environment, **ci},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == skipped
