"""What ssh is told, and what is made of its complaints."""

from __future__ import annotations

import pytest

from bench.errors import BenchError, BenchStopped
from bench.remote.progress import StepLog
from bench.remote.ssh import ConnectionLost, connection_fault, ssh_command


def test_options_of_the_user_count_but_for_what_a_program_needs() -> None:
    command = ssh_command("user@board", ["Port=2222", "ServerAliveInterval=99"], "a command")
    assert command[-3:] == ["--", "user@board", "a command"]
    options = [word[2:] for word in command[1:-3]]  # ssh takes the first value that it is given
    assert options.index("BatchMode=yes") < options.index("Port=2222")
    assert options.index("ServerAliveInterval=99") < options.index("ServerAliveInterval=5")
    assert not [option for option in options if "HostKey" in option]


@pytest.mark.parametrize(
    ("complaint", "lost", "message"),
    [
        ("ssh: connect to host b port 22: Connection timed out", True, "cannot be reached"),
        ("ssh: connect to host b port 22: No route to host", True, "cannot be reached"),
        ("ssh: connect to host b port 22: Connection refused", True, "nothing answers"),
        ("Timeout, server 10.0.0.2 not responding.", True, "the connection failed"),
        ("client_loop: send disconnect: Broken pipe", True, "the connection failed"),
        ("", True, "ssh says: nothing."),
        ("ssh: Could not resolve hostname b: Name or service not known", True, "no such host"),
        ("u@b: Permission denied (publickey,password).", False, "ssh-copy-id"),
        ("Received disconnect: Too many authentication failures", False, "ssh-copy-id"),
        ("No ED25519 host key is known for b\nHost key verification failed.", False, "by hand"),
        ("@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n", False, "ssh-keygen -R"),
        ("command-line: line 0: Bad configuration option: porz", False, "refuses an option"),
    ],
)
def test_complaints_are_told_with_what_to_do(complaint: str, lost: bool, message: str) -> None:
    fault = connection_fault("u@b", [], complaint)
    assert isinstance(fault, ConnectionLost) == lost
    assert str(fault).startswith("'u@b': ")
    assert message in str(fault)


def test_what_to_type_has_the_options_of_the_user() -> None:
    fault = connection_fault("b", ["Port=22", "ProxyJump=a b"], "Host key verification failed.")
    assert "'ssh -o Port=22 -o 'ProxyJump=a b' b' once by hand" in str(fault)


def test_progress_and_faults_are_found_among_other_words() -> None:
    points: list[int] = []
    log = StepLog(points.append)
    log.take("a library speaks\n@progress 3\n@prog", 40)
    log.take('ress 4\n@progress soon\n@fault {"error": "no", "exit_code": 130}\n', 90)
    assert points == [3, 4]
    assert log.offset == 90
    assert isinstance(log.fault(), BenchStopped)


@pytest.mark.parametrize("text", ["Killed", "@fault no json\n", "@fault {}\n", "a\nb\n"])
def test_who_died_is_quoted(text: str) -> None:
    log = StepLog(None)
    log.take(text, len(text))
    fault = log.fault()
    assert type(fault) is BenchError
    assert text.strip() in str(fault)
