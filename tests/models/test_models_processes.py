"""Processes that do one work together, and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.errors import CompressError
from compress.models.processes import run_together
from compress.progress import Task


class Counted:
    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.told.append((steps, note))


def report(folder: Path, bar: Task | None) -> None:
    (folder / os.environ["RANK"]).write_text(os.environ["WORLD_SIZE"])
    if bar is not None:
        bar.advance(2, "half")
        bar.advance(1)


def test_the_first_process_reports(tmp_path: Path) -> None:
    counted, before = Counted(), dict(os.environ)
    run_together(report, (tmp_path,), 2, counted)
    assert counted.told == [(2, "half"), (1, "")]
    assert [(tmp_path / name).read_text() for name in "01"] == ["2", "2"]
    assert dict(os.environ) == before


def fail(how: str, folder: Path, bar: Task | None) -> None:
    del bar
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    other = folder / "1"
    if os.environ["RANK"] == "0":
        if how == "partner":
            waited(
                lambda: other.exists() and other.read_text() and not alive(int(other.read_text()))
            )
            raise ValueError("the other is gone")
        time.sleep(300)
    if how == "fault":
        raise CompressError("the second is to blame")
    if how == "crash":
        raise ValueError("our own mistake")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("fault", CompressError, "^the second is to blame$"),
        pytest.param(
            *("crash", RuntimeError, r"Traceback(.|\n)*our own mistake"), marks=pytest.mark.slow
        ),
        ("kill", CompressError, "killed by signal 9"),
        pytest.param("partner", CompressError, "killed by signal 9", marks=pytest.mark.slow),
    ],
)
def test_one_that_fails_ends_all(
    how: str, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        run_together(fail, (how, tmp_path), 2, Counted())
    pids = [int(file.read_text()) for file in tmp_path.iterdir()]
    assert pids
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def linger(folder: Path, bar: Task | None) -> None:
    del bar
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(300)


_PARENT = """\
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_models_processes import Counted, linger, run_together

if __name__ == "__main__":
    run_together(linger, (Path({folder!r}),), 2, Counted())
"""


def test_a_killed_parent_leaves_nobody(tmp_path: Path) -> None:
    folder, script = tmp_path / "pids", tmp_path / "parent.py"
    folder.mkdir()
    here = Path(__file__).parent
    script.write_text(_PARENT.format(paths=[str(here.parent), str(here)], folder=str(folder)))
    parent = subprocess.Popen([sys.executable, str(script)])
    files = [folder / "0", folder / "1"]
    assert waited(lambda: all(file.exists() and file.read_text() for file in files))
    parent.kill()
    parent.wait()
    assert waited(lambda: not any(alive(int(file.read_text())) for file in files))


def waited(condition: Callable[[], object], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(condition())
