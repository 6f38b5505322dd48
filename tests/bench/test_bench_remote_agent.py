"""The agent that keeps a job's folder on the board, spoken to without a network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bench.remote.agent as agent
from bench.remote.agent import MARK, Agent, Job, Refused


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(agent, "_BUSY_SECONDS", 0.0)
    return tmp_path / ".cache" / "compress-bench"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def request(do: str, **fields: Any) -> bytes:
    return json.dumps({"do": do, **fields}).encode() + b"\n"


OPEN = request("open", id="job", modules=[], wanted={})


def talk(said: bytes, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What an agent answers to all that is ``said`` before the connection ends."""
    answers: list[dict[str, Any]] = []
    monkeypatch.setattr(agent.select, "select", lambda *_: ([1], [], []))
    with pytest.raises(EOFError):
        Agent(io.BytesIO(said), answers.append).serve()
    return answers[1:]


def test_files_come_in_chunks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"abc\n\x00" * 3
    put = request("put", name="files/0/a net", sha256=sha256(content))
    chunks = b"5\n" + content[:5] + b"10\n" + content[5:] + b"0\n"
    wanted = {"files/0/a net": sha256(content), "other": "0" * 64}
    again = request("open", id="job", modules=["json", "no_such_module"], wanted=wanted)
    answers = talk(OPEN + put + chunks, monkeypatch)
    assert answers[1] == {}
    assert (home / "job" / "files" / "0" / "a net").read_bytes() == content
    [answer] = talk(again, monkeypatch)
    assert answer["missing"] == ["other"]
    assert answer["lacking"] == ["no_such_module"]


@pytest.mark.parametrize(
    ("chunks", "answers"),
    [
        (b"3\nabc-1\n", [{}]),
        (b"3\nabx0\n", [{"refused": "fault", "error": "'net' came damaged"}]),
        (b"3\nab", []),
        (b"3\nabc", []),
    ],
    ids=["stopped", "damaged", "lost in a chunk", "lost between chunks"],
)
def test_half_a_file_is_no_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, chunks: bytes, answers: list[dict[str, Any]]
) -> None:
    put = request("put", name="net", sha256=sha256(b"abc"))
    assert talk(OPEN + put + chunks, monkeypatch)[1:] == answers
    assert [path.name for path in (home / "job").iterdir()] == ["session.lock"]


@pytest.mark.parametrize("name", ["../other/net", "/etc/passwd", "a/../../b"])
def test_no_file_lies_outside_of_the_job(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put = request("put", name=name, sha256=sha256(b""))
    assert talk(OPEN + put, monkeypatch)[1]["refused"] == "fault"


def test_a_disk_without_room_is_told_before_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = agent.shutil.disk_usage("/")
    monkeypatch.setattr(agent.shutil, "disk_usage", lambda _: usage._replace(free=50 << 20))
    room = request("room", bytes=10 << 20) + request("room", bytes=100 << 20)
    assert talk(OPEN + room, monkeypatch)[1:] == [
        {},
        {"refused": "full", "error": "132 MB are needed, 50 MB are free"},
    ]


def test_a_job_has_one_command() -> None:
    first = Job("job")
    with pytest.raises(Refused, match="another command") as refused:
        Job("job")
    assert refused.value.kind == "busy"
    Job("other")
    del first
    Job("job")


def wait_for(done: Callable[[], bool]) -> None:
    """A process that ended is noticed at once; a test that waits in vain is stopped by pytest."""
    while not done():
        os.sched_yield()


def start(job: Job, script: str) -> int:
    job.start("step", ["-c", script])
    return int((job.folder / "step.pid").read_text())


def test_a_step_outlives_its_connection_and_is_told_from_a_dead_one() -> None:
    job = Job("job")
    number = start(job, "print('hello', flush=True); import time; time.sleep(60)")
    wait_for(lambda: bool(job.look("step", "out", 0)["log"]))
    del job
    job = Job("job")
    seen = job.look("step", "out", 0)
    assert (seen["running"], seen["done"], seen["log"]) == (True, False, "hello\n")
    assert job.look("step", "out", seen["offset"])["log"] == ""
    job.start("step", ["-c", "print('second')"])
    assert (job.folder / "step.pid").read_text() == str(number)
    os.killpg(number, signal.SIGKILL)
    os.waitpid(number, 0)
    seen = job.look("step", "out", 0)
    assert (seen["running"], seen["done"]) == (False, False)


@pytest.mark.parametrize(("kill", "number"), [(False, signal.SIGTERM), (True, signal.SIGKILL)])
def test_a_step_is_asked_to_end_or_ended(kill: bool, number: signal.Signals) -> None:
    job = Job("job")
    process = start(job, "import time; time.sleep(60)")
    job.stop("step", kill)
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == number
    job.stop("step", kill)  # nobody is there any more: no fault


def test_what_is_left(home: Path) -> None:
    job = Job("job")
    (job.folder / "result.json").write_text("{}")
    job.leave("taken.json")
    assert {path.name for path in job.folder.iterdir()} == {"session.lock", "taken.json"}
    other = Job("other")
    job.leave(None)
    assert [path.name for path in home.iterdir()] == ["other"]
    other.leave(None)
    assert not home.exists()


def test_silence_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent.select, "select", lambda *_: ([], [], []))
    with pytest.raises(EOFError, match="nothing heard for 60 s"):
        Agent(io.BytesIO(b""), lambda _: None).serve()


def test_it_runs_as_plain_source_and_marks_its_words() -> None:
    command = [sys.executable, "-I", "-S", str(agent.__file__)]
    done = subprocess.run(command, input=OPEN, capture_output=True, check=True)
    hello, opened = [x for x in done.stdout.decode().splitlines() if x.startswith(MARK)]
    assert "python" in json.loads(hello[len(MARK) :])
    assert json.loads(opened[len(MARK) :])["missing"] == []
