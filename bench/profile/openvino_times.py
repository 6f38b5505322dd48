"""How long each operator of a file takes in OpenVINO, by its own profiler."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.loop import Minimum, measure
from bench.profile.layer_times import REORDER
from bench.runtimes.openvino_cpu import OpenVinoCpu

_WARMUP_ROUNDS = 2
_EXPORTED = ("/", "__module.")
# "images_abcd_acdb_/model.0/conv/Conv": from one order of axes to another, in between
_LAYOUT_CHANGE = re.compile(r"_a[a-e0-9]{2,}_a[a-e0-9]{2,}_", re.IGNORECASE)


def openvino_node_times(
    models: Mapping[str, Path],
    *,
    threads: int,
    minimum: Minimum,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    beside: Mapping[str, Callable[[], object]] | None = None,
    int8: dict[str, dict[str, set[bool]]] | None = None,
) -> dict[str, dict[str, float]]:
    """Median milliseconds of every operator of several graphs, run in turn on random inputs.

    Args:
        models: files by label; one float input each.
        threads: of the runtime inside one operator.
        minimum: rounds, and their time in seconds.
        seed: of the random inputs in [0, 1).
        shape: of the input, for files that leave it open.
        beside: calls by name to run in turn with the graphs, for what is to be compared with them.
        int8: takes up, by label, which convolutions and products ran on integers and which on
            floats: operator -> True, False or, where several have one name, both.

    Returns:
        Label -> operator -> milliseconds. Names of layout changes begin with ``Reorder``; what
        else OpenVINO adds goes under ``""``.

    Raises:
        BenchError: openvino is missing, or cannot load or run a graph, or its input's shape stays
            open.
    """
    samples: dict[str, list[dict[str, float]]] = {label: [] for label in models}
    runtimes = {
        label: OpenVinoCpu(path, threads, shape=shape, seed=seed, profiled=True)
        for label, path in models.items()
    }
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = dict(beside or {})
        for label, runtime in runtimes.items():
            calls[label] = _profiling(stack.enter_context(runtime), samples[label])
        measure(calls, warmup=Minimum(0, _WARMUP_ROUNDS), minimum=minimum)
        if int8 is not None:
            int8.update({label: _ran_int8(runtime) for label, runtime in runtimes.items()})
    return {label: _medians(rounds[_WARMUP_ROUNDS:]) for label, rounds in samples.items()}


def _profiling(runtime: OpenVinoCpu, rounds: list[dict[str, float]]) -> Callable[[], None]:
    def run() -> None:
        runtime.infer()
        rounds.append(runtime.node_times())

    return run


def _ran_int8(runtime: OpenVinoCpu) -> dict[str, set[bool]]:
    ran: dict[str, set[bool]] = defaultdict(set)
    for operator, int8 in runtime.ran_int8().items():
        ran[_named(operator)].add(int8)
    return dict(ran)


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    times: dict[str, float] = defaultdict(float)
    for operator in rounds[0]:
        times[_named(operator)] += median(times_of[operator] for times_of in rounds)
    return dict(times)


def _named(operator: str) -> str:
    if _LAYOUT_CHANGE.search(operator):
        return f"{REORDER} {operator}"
    # names of exported operators are paths
    return operator if operator.startswith(_EXPORTED) else ""
