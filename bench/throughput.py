"""Images a second where several copies of a net run side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench.entries import Entry
from bench.results.schema import Throughput
from bench.runtimes.base import Runtime
from bench.settings import Settings


def measure_throughput(entry: Entry, settings: Settings, stopped: Callable[[], bool]) -> Throughput:
    """Run ``settings.streams`` copies of ``entry``, each in a thread of its own.

    Raises:
        BenchError: the artifact cannot be loaded that often, or fails.
    """
    with ExitStack() as stack:
        copies = [stack.enter_context(entry.ready(settings)) for _ in range(settings.streams)]
        for copy in copies:
            copy.infer()
        start = threading.Barrier(len(copies) + 1)
        with ThreadPoolExecutor(len(copies)) as pool:
            running = [
                pool.submit(_run, copy, start, settings.stream_seconds, stopped) for copy in copies
            ]
            start.wait()
            began = time.perf_counter()
            calls = sum(job.result() for job in running)
            seconds = time.perf_counter() - began
        batch = copies[0].input_shape[0]
    return Throughput(
        batch=batch,
        streams=settings.streams,
        threads=settings.threads,
        images_per_second=calls * batch / seconds,
        images=calls * batch,
        seconds=seconds,
    )


def _run(
    runtime: Runtime, start: threading.Barrier, seconds: float, stopped: Callable[[], bool]
) -> int:
    start.wait()
    end, calls = time.perf_counter() + seconds, 0
    while time.perf_counter() < end and not stopped():
        runtime.infer()
        calls += 1
    return calls
