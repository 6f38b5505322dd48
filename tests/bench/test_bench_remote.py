"""Measured on another machine: a real sshd on the loopback, and the real OpenSSH client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from bench_graphs import Conv, save_chain
from loopback_sshd import Board, Sshd, make_key, needs_sshd, sshd_in

import bench.remote.command
import bench.remote.run
from bench.errors import BenchAlignmentError, BenchError, BenchStopped
from bench.remote.run import bench_on_host
from bench.results.schema import BenchResult
from bench.settings import Settings

pytestmark = needs_sshd
QUICK = Settings(min_seconds=0.05, min_count=11, warmup_seconds=0)
LONG = Settings(min_seconds=30, min_count=11, warmup_seconds=0)
# long enough to be still running when something happens at its first percent
SOME = Settings(min_seconds=0.8, min_count=11, warmup_seconds=0)
SMALL = [Conv("stem", 3, 8), Conv("last", 8, 8)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd_in(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def board(sshd: Sshd, tmp_path: Path) -> Board:
    return sshd.board(tmp_path / "board")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    busy = [Conv("stem", 3, 64), Conv("body", 64, 64), Conv("last", 64, 8)]
    return save_chain(tmp_path / "net.onnx", busy, shape=(1, 3, 96, 96))


class Heard:
    """What a command was told; ``first`` is called at its first percent."""

    def __init__(self, first: Callable[[], object] = lambda: None) -> None:
        self.said: list[str] = []
        self.points = 0
        self._first = first

    def progress(self, points: int) -> None:
        first, self.points = not self.points, self.points + points
        if first:
            self._first()

    def __contains__(self, words: str) -> bool:
        return words in " ".join(self.said)


def measure(
    board: Board, *nets: Path, settings: Settings = QUICK, heard: Heard | None = None, **more: Any
) -> BenchResult:
    heard = heard or Heard()
    more = {"ssh_options": board.options, "waits": (0.05,) * 5, "tell": heard.said.append, **more}
    return bench_on_host(board.host, nets, settings, progress=heard.progress, **more)


def command_of(board: Board, net: Path, settings: Settings) -> subprocess.Popen[str]:
    """A process that measures: a line for each progress, and one at the end."""
    script = (
        "from pathlib import Path\n"
        "from bench.remote.run import bench_on_host\nfrom bench.settings import Settings\n"
        f"result = bench_on_host({board.host!r}, [Path({str(net)!r})], {settings!r}, "
        f"ssh_options={board.options!r}, progress=lambda points: print(points, flush=True))\n"
        "print('complete' if result['complete'] else 'incomplete')\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        start_new_session=True,
    )


def test_a_board_measures_and_keeps_nothing(board: Board, tmp_path: Path) -> None:
    names = ["plain.onnx", '-o it\'s "$HOME"; `x`.onnx']
    nets = [save_chain(tmp_path / name, SMALL, shape=("n", 3, 8, 8)) for name in names]
    settings = Settings(min_seconds=0.05, min_count=11, shape=[2, 3, 8, 8], align=8)
    heard = Heard()
    result = measure(board, *nets, settings=settings, heard=heard, labels=["a", "files/0"])
    assert (result["host"], result["complete"]) == ("127.0.0.1", True)
    assert result["settings"]["align"] == 8
    assert [row["file"] for row in result["rows"]] == [str(net) for net in nets]
    assert [row["label"] for row in result["rows"]] == ["a", "files/0"]
    assert [row["input"] for row in result["rows"]] == [[2, 3, 8, 8]] * 2
    assert len(result["samples_ns"]["a"]) >= 11
    assert heard.points == 100
    assert "Sending 4 files" in heard
    assert [path.name for path in board.home.rglob("*")] == ["programs", ".cache", "python3"]


def test_what_is_kept_is_sent_again_only_if_damaged_and_measured_again(
    board: Board, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # also: a login shell that talks does no harm, and a clock that stands at 1970 is put right
    board.program("python3", f'echo "Welcome!"; printf "no newline"; exec {sys.executable} "$@"')
    monkeypatch.setattr(bench.remote.command.time, "time", lambda: time.time_ns() / 1e9 + 1e9)
    first = measure(board, net, keep=True)
    sent = board.job() / "files" / "0" / "net.onnx"
    assert sent.read_bytes() == net.read_bytes()
    sent.write_bytes(b"half")
    heard = Heard()
    second = measure(board, net, heard=heard)
    assert "Sending 1 files" in heard
    assert first["samples_ns"] != second["samples_ns"]
    ahead = datetime.fromisoformat(first["created"]) - datetime.now(timezone.utc)
    assert abs(ahead.total_seconds() - 1e9) < 600
    assert not board.jobs.exists()


def test_ctrl_c_ends_it_there_and_brings_what_was_measured(board: Board, net: Path) -> None:
    with command_of(board, net, LONG) as command:
        assert command.stdout is not None
        assert command.stdout.readline() != "complete\n"
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does: ssh is hit, too
        *_, last = command.stdout
    assert (last, command.returncode) == ("incomplete\n", 0)
    assert not board.jobs.exists()


def test_ctrl_c_before_anything_was_measured_cleans_up(
    board: Board, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("Sending"):
            told.set()

    told = threading.Event()  # in place of a signal, which would hit pytest
    monkeypatch.setattr(bench.remote.run, "stop_at_interrupt", lambda: nullcontext(told.is_set))
    with pytest.raises(BenchStopped):
        measure(board, net, settings=LONG, tell=interrupt)
    assert not board.jobs.exists()


def test_a_lost_connection_is_made_again(sshd: Sshd, board: Board, net: Path) -> None:
    heard = Heard(sshd.cut)
    result = measure(board, net, settings=SOME, heard=heard)
    assert result["complete"]
    assert "The connection to '127.0.0.1' is lost; again in 0.05 s." in heard
    assert heard.points == 100
    assert not board.jobs.exists()


def test_a_board_that_stays_away_goes_on_and_is_picked_up(tmp_path: Path, net: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    with sshd_in(folder) as own:
        board = own.board(tmp_path / "board")
        with pytest.raises(BenchError, match=r"goes on, and the same command picks it up") as away:
            measure(board, net, settings=SOME, heard=Heard(own.down))
        assert str(board.job()) in str(away.value)
        worker = board.worker()
        own.up()
        heard = Heard(lambda: heard.said.append(f"worker {board.worker()}"))
        result = measure(board, net, settings=SOME, heard=heard)
        assert f"worker {worker}" in heard
        assert "has begun" not in heard
        assert result["complete"]
        assert not board.jobs.exists()


@pytest.mark.parametrize(("waits", "left"), [((0.05,) * 5, False), ((), True)])
def test_a_result_that_has_come_is_not_measured_again(
    sshd: Sshd,
    board: Board,
    net: Path,
    monkeypatch: pytest.MonkeyPatch,
    waits: tuple[float, ...],
    left: bool,
) -> None:
    def cut_off(value: Any, name: str) -> BenchResult:
        sshd.cut()
        return checked(value, name)

    checked = bench.remote.command.checked
    monkeypatch.setattr(bench.remote.command, "checked", cut_off)
    heard = Heard()
    assert measure(board, net, heard=heard, waits=waits)["complete"]
    assert " ".join(heard.said).count("has begun") == 1
    assert ("stays behind" in heard) == left
    assert board.jobs.exists() == left


def test_a_command_that_was_killed_is_picked_up(board: Board, net: Path) -> None:
    with command_of(board, net, SOME) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        killed.kill()
    heard = Heard()
    result = measure(board, net, settings=SOME, heard=heard)
    assert "has begun" not in heard
    assert result["complete"]
    assert not board.jobs.exists()


def test_a_worker_that_died_is_told_from_one_that_runs(board: Board, net: Path) -> None:
    heard = Heard(lambda: os.kill(board.worker(), signal.SIGKILL))
    with pytest.raises(BenchError, match=r"ended without a result: it was killed"):
        measure(board, net, settings=LONG, heard=heard)
    assert not board.jobs.exists()


def test_two_commands_do_not_share_a_job(board: Board, net: Path) -> None:
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(BenchError, match="another command is at this very job") as error:
            measure(board, net, settings=SOME)
        refused.append(str(error.value))

    assert measure(board, net, settings=SOME, heard=Heard(second))["complete"]
    assert len(refused) == 1


def test_a_fault_there_is_told_in_our_words(board: Board, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no net")
    with pytest.raises(BenchError) as error:
        measure(board, broken)
    assert "127.0.0.1" in str(error.value)
    assert f"'{broken}'" in str(error.value)
    assert str(board.home) not in str(error.value)
    assert not board.jobs.exists()


def test_a_disk_that_is_full_keeps_no_half_files(board: Board, tmp_path: Path) -> None:
    wide = [Conv("stem", 3, 512), Conv("last", 512, 512)]
    net = save_chain(tmp_path / "wide.onnx", wide)
    # no file there may grow beyond 256 KiB: the write fails in its middle, as on a full disk
    board.program("python3", f'ulimit -f 512; exec {sys.executable} "$@"')
    with pytest.raises(BenchError, match=r"'.*wide\.onnx' cannot be written.*no room"):
        measure(board, net)
    assert not board.jobs.exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 127", "has no 'python3'"),
        ("exec {python} -c 'import sys;sys.version_info=(3,6,9);exec(sys.argv[1])' \"$2\"", "3.6;"),
        ("echo This account is not available.", "does it give you a shell.*not available"),
        ('exec {python} -S -I -c "$2"', "lacks 'numpy': sudo apt install python3-numpy"),
    ],
    ids=["no python", "old python", "no shell", "no numpy"],
)
def test_what_a_board_lacks_is_said(board: Board, net: Path, script: str, message: str) -> None:
    board.program("python3", script.format(python=sys.executable))
    with pytest.raises(BenchError, match=message):
        measure(board, net)
    assert not board.jobs.exists()


@pytest.mark.parametrize(
    "answers",
    [[r"no \033[31mJSON"], ["[]"], ["{}"], ['{"python": "3"}', '{"folder": "there"}']],
    ids=["no JSON", "no dict", "no version", "half an answer"],
)
def test_a_board_that_answers_something_else_is_told(
    board: Board, net: Path, answers: list[str]
) -> None:
    said = "".join(f"@compress-bench {answer}\\n" for answer in answers)
    board.program("python3", f"printf '{said}'; cat >/dev/null")
    with pytest.raises(BenchError, match=r"answered something else than .* login shell") as error:
        measure(board, net)
    assert "\x1b" not in str(error.value)


def test_an_unknown_host_key_is_never_accepted(board: Board, net: Path, tmp_path: Path) -> None:
    nothing = f"UserKnownHostsFile={tmp_path / 'nothing'}"
    with pytest.raises(BenchError, match=r"not known yet. Run 'ssh -o .* 127.0.0.1' once"):
        measure(board, net, ssh_options=[nothing, *board.options])
    assert not (tmp_path / "nothing").exists()
    make_key(tmp_path / "other")
    [known] = tmp_path.glob("*.known_hosts")
    other = (tmp_path / "other.pub").read_text().split()[:2]
    known.write_text(f"{known.read_text().split()[0]} {' '.join(other)}\n")
    with pytest.raises(BenchError, match=r"is not the one that is known.*ssh-keygen -R"):
        measure(board, net)


def test_who_is_not_let_in_is_told(board: Board, net: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    options = [f"IdentityFile={tmp_path / 'stranger'}", *board.options[:1], *board.options[2:]]
    with pytest.raises(BenchError, match=r"does not let you in.*ssh-copy-id -o .* 127.0.0.1"):
        measure(board, net, ssh_options=options)


def test_a_host_that_is_not_there_is_told(net: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no such host is known"):
        bench_on_host("board.invalid", [net], QUICK)
    folder = tmp_path / "gone"
    folder.mkdir()
    with sshd_in(folder) as gone:
        board = gone.board(tmp_path / "board")
    with pytest.raises(BenchError, match="nothing answers at its SSH port"):
        measure(board, net)


def test_ragged_channels_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    ragged = save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 12), Conv("last", 12, 8)])
    with pytest.raises(BenchAlignmentError, match="stem"):
        bench_on_host("nobody@board.invalid", [ragged], Settings(align=8))


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "", "a b", "board\n"])
def test_what_is_no_host_is_refused(net: Path, host: str) -> None:
    with pytest.raises(BenchError, match="is no host"):
        bench_on_host(host, [net], QUICK)


def test_a_machine_without_ssh_is_told(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BenchError, match="'ssh' is not installed"):
        bench_on_host("board", [net], QUICK)


def test_a_file_that_is_not_there_is_told_before_connecting(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"gone\.onnx"):
        bench_on_host("board.invalid", [tmp_path / "gone.onnx"], QUICK)
