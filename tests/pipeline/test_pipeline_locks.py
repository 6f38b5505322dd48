from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from pipeline_fakes import Desk, recipe

from compress.errors import CompressError
from compress.pipeline.contract import Context
from compress.pipeline.locks import Busy, hold

PROCESSES = multiprocessing.get_context("fork")


def _hold(file: Path, ready: Event, end: Event) -> None:
    with hold(file):
        ready.set()
        end.wait(30)


def test_held_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    ready, end = PROCESSES.Event(), PROCESSES.Event()
    other = PROCESSES.Process(target=_hold, args=(tmp_path / "a.lock", ready, end))
    other.start()
    assert ready.wait(30)
    with pytest.raises(Busy) as busy, hold(tmp_path / "a.lock"):
        pass
    assert f"process {other.pid} on " in busy.value.holder
    os.kill(other.pid or 0, signal.SIGKILL)
    other.join()
    with hold(tmp_path / "a.lock"):
        pass


def test_waiting_says_so_and_goes_on(tmp_path: Path) -> None:
    ready, end = PROCESSES.Event(), PROCESSES.Event()
    other = PROCESSES.Process(target=_hold, args=(tmp_path / "a.lock", ready, end))
    other.start()
    assert ready.wait(30)
    said: list[str] = []

    def waiting(holder: str) -> None:
        said.append(holder)
        end.set()

    with hold(tmp_path / "a.lock", waiting):
        assert len(said) == 1
    other.join()


def _run_slowly(desk: Desk, started: Event, go_on: Event) -> None:
    def hook(stage: str, moment: str, context: Context) -> None:
        if (stage, moment) == ("train", "begin"):
            started.set()
            go_on.wait(30)

    desk.run(recipe(only=["base"]), hook=hook)


def test_second_run_in_the_same_folder_fails_at_once(desk: Desk) -> None:
    started, go_on = PROCESSES.Event(), PROCESSES.Event()
    first = PROCESSES.Process(target=_run_slowly, args=(desk, started, go_on))
    first.start()
    assert started.wait(30)
    before = time.monotonic()
    with pytest.raises(CompressError, match=f"in use by process {first.pid} on .*--out"):
        desk.run(recipe(only=["base"]))
    assert time.monotonic() - before < 1
    go_on.set()
    first.join()
    assert first.exitcode == 0
    assert desk.run(recipe(only=["base"])).ran == ()


def test_same_stage_in_another_run_folder_waits_and_is_then_cached(desk: Desk) -> None:
    started, go_on = PROCESSES.Event(), PROCESSES.Event()
    first = PROCESSES.Process(target=_run_slowly, args=(desk, started, go_on))
    first.start()
    assert started.wait(30)
    said = desk.lines.said
    desk.lines.say = lambda message, important=False: (said.append(message), go_on.set())  # type: ignore[method-assign, assignment, func-returns-value]
    other = type(desk.place)(desk.folder / "runs" / "other", desk.place.cache)
    assert desk.run(recipe(only=["base"]), place=other).ran == ()
    assert f"waiting for process {first.pid}" in said[0]
    first.join()
