"""A signal in the middle of a measurement."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import get_context
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


def apart(body: Callable[..., None], *arguments: object) -> None:
    """Run ``body`` in a process of its own: signals are nothing for the one that tests run in.

    It begins as Python does, whatever started the tests: in the background SIGINT is ignored.
    """
    process = get_context("spawn").Process(target=_begin, args=(body, arguments))
    process.start()
    process.join()
    assert process.exitcode == 0


def _begin(body: Callable[..., None], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    body(*arguments)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 8)], shape=(1, 3, 16, 16))


def test_a_signal_is_an_answer_and_the_second_one_what_it_was() -> None:
    apart(_signal_twice)


def _signal_twice() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        seen: list[int] = []
        signal.signal(number, lambda got, _, seen=seen: seen.append(got))
        with stop_at_interrupt() as stopped:
            assert not stopped()
            os.kill(os.getpid(), number)
            assert stopped()
            assert seen == []
            os.kill(os.getpid(), number)
            assert seen == [number]
        os.kill(os.getpid(), number)
        assert seen == [number] * 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_at_interrupt() as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stopped()  # what was ignored stays ignored
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


def interrupt_after(calls: int) -> None:
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

    Entry.ready = counted  # type: ignore[method-assign]


def test_rounds_that_are_whole_are_kept_and_marked(net: Path) -> None:
    apart(_stop_in_the_loop, net)


def _stop_in_the_loop(net: Path) -> None:
    interrupt_after(2 * (bench.run._WARMUP_ROUNDS + 20) - 1)
    result = bench_files([net, net], ENDLESS, labels=["a", "b"])
    assert not result["complete"]
    assert [len(samples) for samples in result["samples_ns"].values()] == [20, 20]
    assert [row["latency_ms"]["count"] for row in result["rows"]] == [20, 20]
    assert "stopped before its time: 20 rounds were measured" in result["warnings"][0]


def test_nothing_to_keep(net: Path) -> None:
    apart(_stop_in_the_warm_up, net)


def _stop_in_the_warm_up(net: Path) -> None:
    interrupt_after(2)
    with pytest.raises(BenchStopped, match="before anything was measured") as caught:
        bench_files([net], ENDLESS)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_stop_cuts_short_behind_the_loop_is_left_out(net: Path) -> None:
    apart(_stop_behind_the_loop, net)


def _stop_behind_the_loop(net: Path) -> None:
    quick = Settings(
        min_seconds=0, min_count=11, warmup_seconds=0, energy_seconds=0, streams=1, stream_seconds=9
    )
    # a look at each copy before its time begins; the signal comes in the middle of the first one's
    interrupt_after(2 * (bench.run._WARMUP_ROUNDS + 11) + 4)
    result = bench_files([net, net], quick, labels=["a", "b"])
    assert not result["complete"]
    assert [row["throughput"] for row in result["rows"]] == [None, None]
    assert [row["latency_ms"]["count"] for row in result["rows"]] == [11, 11]
    assert "what comes behind the latency is not complete" in result["warnings"][0]
