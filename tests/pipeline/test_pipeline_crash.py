"""``kill -9`` at every moment a run touches the disk, then the same command again."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pipeline_fakes import Desk, recipe
from slow import slow

from compress.pipeline.contract import Context
from compress.pipeline.plan import Selection

RECIPE = recipe(only=["base", "export"])
CHANGING = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir"}


def kill_at(count: int, folder: Path) -> None:
    """Kill this process just before its ``count``-th change on disk below ``folder``."""
    left = count

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if (writes or event in CHANGING) and str(folder) in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


def in_child(work: Callable[[], object]) -> bool:
    """Do ``work`` in a fork; whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def leftovers(desk: Desk) -> list[str]:
    runs = desk.folder / "runs"
    return [str(path) for path in runs.rglob(".*") if ".new" in path.name or ".old" in path.name]


@pytest.mark.parametrize("begun", [*slow("fresh"), "forced over an old result"])
def test_kill_at_every_change_on_disk(tmp_path: Path, begun: str) -> None:
    straight = Desk.at(tmp_path / "straight")
    straight.run(RECIPE)
    selection = Selection(force=("base", "export")) if begun.startswith("forced") else None
    killed, count = True, 0
    while killed:
        count += 1
        desk = Desk.at(tmp_path / str(count))
        if selection:
            desk.run(RECIPE)

        def work(desk: Desk = desk, count: int = count) -> None:
            kill_at(count, desk.folder)
            desk.run(RECIPE, selection)

        killed = in_child(work)
        desk.run(RECIPE)
        assert desk.hashes() == straight.hashes()
        assert not leftovers(desk)
        assert not list((desk.place.cache / "scratch").glob("*"))
        assert desk.run(RECIPE).ran == ()
    assert count > 30


@pytest.mark.parametrize("moment", ["begin", "between", "end"])
def test_kill_inside_a_stage_keeps_what_was_finished(desk: Desk, moment: str) -> None:
    def hook(stage: str, now: str, context: Context) -> None:
        if (stage, now) == ("export", moment):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(lambda: desk.run(RECIPE, hook=hook))
    run = json.loads((desk.place.run / "run.json").read_text())
    assert run["status"] == "running"
    assert [stage["name"] for stage in run["stages"]] == ["base"]
    assert desk.run(RECIPE).ran == ("export",)


def test_killed_training_finds_its_scratch_again(desk: Desk) -> None:
    def die(stage: str, now: str, context: Context) -> None:
        (context.scratch / "last.pt").write_text("epoch 3")
        os.kill(os.getpid(), signal.SIGKILL)

    seen: list[list[str]] = []

    def look(stage: str, now: str, context: Context) -> None:
        if now == "begin":
            seen.append([path.read_text() for path in context.scratch.iterdir()])

    base = recipe(only=["base"])
    assert in_child(lambda: desk.run(base, hook=die))
    other = recipe({"base": {"train": {"epochs": 61}}}, only=["base"])
    desk.run(other, hook=look)
    desk.run(base, hook=look)
    assert seen == [[], ["epoch 3"]]


def test_force_starts_from_the_beginning(desk: Desk) -> None:
    def die(stage: str, now: str, context: Context) -> None:
        (context.scratch / "last.pt").write_text("epoch 3")
        os.kill(os.getpid(), signal.SIGKILL)

    def look(stage: str, now: str, context: Context) -> None:
        assert now != "begin" or not list(context.scratch.iterdir())

    base = recipe(only=["base"])
    assert in_child(lambda: desk.run(base, hook=die))
    assert desk.run(base, Selection(force=("base",)), hook=look).ran == ("base",)
