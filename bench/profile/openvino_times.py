"""How long each operator of a file takes in OpenVINO, by its own profiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.loop import Minimum, measure
from bench.runtimes.openvino_cpu import OpenVinoCpu

_WARMUP_ROUNDS = 2


def openvino_node_times(
    models: Mapping[str, Path], *, threads: int, minimum: Minimum, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Median milliseconds of every operator of several graphs, run in turn on random inputs.

    Args:
        models: files by label; all inputs float and fixed in size.
        threads: of the runtime inside one operator.
        minimum: rounds, and their time in seconds.
        seed: of the random inputs in [0, 1).

    Returns:
        Label -> operator -> milliseconds. What OpenVINO adds itself goes under ``""``.

    Raises:
        BenchError: openvino is missing, or cannot load or run a graph.
    """
    samples: dict[str, list[dict[str, float]]] = {label: [] for label in models}
    with ExitStack() as stack:
        calls: dict[str, Callable[[], None]] = {}
        for label, path in models.items():
            runtime = stack.enter_context(OpenVinoCpu(path, threads, seed=seed, profiled=True))
            calls[label] = _profiling(runtime, samples[label])
        measure(calls, warmup=Minimum(0, _WARMUP_ROUNDS), minimum=minimum)
    return {label: _medians(rounds[_WARMUP_ROUNDS:]) for label, rounds in samples.items()}


def _profiling(runtime: OpenVinoCpu, rounds: list[dict[str, float]]) -> Callable[[], None]:
    def run() -> None:
        runtime.infer()
        rounds.append(runtime.node_times())

    return run


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    times: dict[str, float] = defaultdict(float)
    for operator in rounds[0]:
        # the names of exported operators are paths
        name = operator if operator.startswith("/") else ""
        times[name] += median(times_of[operator] for times_of in rounds)
    return dict(times)
