"""A signal in the middle of a measurement."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_graphs import Conv, save_chain

import bench.run
from bench.entries import Entry
from bench.errors import BenchStopped
from bench.interrupt import stop_at_interrupt
from bench.run import bench_files
from bench.settings import Settings

ENDLESS = Settings(min_seconds=3600, min_count=10**9, warmup_seconds=0, energy_seconds=0)


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """As Python begins, whatever started the tests: in the background SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 8)], shape=(1, 3, 16, 16))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_an_answer_and_the_second_one_what_it_was(name: str) -> None:
    number = getattr(signal, name)
    seen: list[int] = []
    before = signal.signal(number, lambda got, _: seen.append(got))
    try:
        with stop_at_interrupt() as stopped:
            assert not stopped()
            os.kill(os.getpid(), number)
            assert stopped()
            assert seen == []
            os.kill(os.getpid(), number)
            assert seen == [number]
        os.kill(os.getpid(), number)
        assert seen == [number] * 2
    finally:
        signal.signal(number, before)


def test_what_was_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_at_interrupt() as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stopped()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_another_thread_is_left_alone() -> None:
    answers: list[bool] = []

    def run() -> None:
        with stop_at_interrupt() as stopped:
            answers.append(stopped())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert answers == [False]


def interrupt_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the call of that number runs."""
    ready, seen = Entry.ready, [0]

    def counted(entry: Entry, settings: Settings) -> Any:
        runtime = ready(entry, settings)
        infer = runtime.infer

        def run() -> None:
            seen[0] += 1
            if seen[0] == calls:
                os.kill(os.getpid(), signal.SIGINT)
            infer()

        runtime.infer = run  # type: ignore[method-assign]
        return runtime

    monkeypatch.setattr(Entry, "ready", counted)


def test_rounds_that_are_whole_are_kept_and_marked(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(2 * (bench.run._WARMUP_ROUNDS + 20) - 1, monkeypatch)
    result = bench_files([net, net], ENDLESS, labels=["a", "b"])
    assert not result["complete"]
    assert [len(samples) for samples in result["samples_ns"].values()] == [20, 20]
    assert [row["latency_ms"]["count"] for row in result["rows"]] == [20, 20]
    assert "stopped before its time: 20 rounds were measured" in result["warnings"][0]


def test_nothing_to_keep(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(2, monkeypatch)
    with pytest.raises(BenchStopped, match="before anything was measured") as caught:
        bench_files([net], ENDLESS)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
