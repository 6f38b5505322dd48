"""How long each layer of an engine takes, by TensorRT's own profiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench.loop import Minimum, measure
from bench.runtimes.tensorrt_engine import TensorRtEngine

_WARMUP_ROUNDS = 2


def tensorrt_node_times(
    models: Mapping[str, Path],
    *,
    minimum: Minimum,
    shape: Sequence[int] | None = None,
    index: int = 0,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Median milliseconds of every layer of several engines, run in turn on random inputs.

    Layers carry the names that TensorRT gave them, which hold those of the ONNX operators. They run
    one after another without CUDA graph, and being observed slows them down: compare them with each
    other, not with a latency.

    Args:
        models: engines by label.
        minimum: rounds, and their time in seconds.
        shape: of the input, for engines that leave it open.
        index: of the GPU.
        seed: of the random inputs in [0, 1).

    Returns:
        Label -> layer -> milliseconds, in the order in which layers run.

    Raises:
        BenchError: TensorRT or CUDA is missing, or an engine cannot be loaded or run.
    """
    rounds: dict[str, list[dict[str, float]]] = {label: [] for label in models}
    with ExitStack() as stack:
        calls: dict[str, Callable[[], None]] = {}
        for label, path in models.items():
            times: dict[str, float] = {}
            engine = TensorRtEngine(path, shape, seed, index, False, _profiler_into(times))
            stack.enter_context(engine)
            calls[label] = _observed(engine, times, rounds[label])
        measure(calls, warmup=Minimum(0, _WARMUP_ROUNDS), minimum=minimum)
    return {label: _medians(seen[_WARMUP_ROUNDS:]) for label, seen in rounds.items()}


def _profiler_into(times: dict[str, float]) -> Callable[[Any], Any]:
    """What makes a profiler that adds each layer's milliseconds to ``times``."""

    def made(trt: Any) -> Any:
        class Profiler(trt.IProfiler):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)  # the bindings ask for this very call

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times[layer_name] = times.get(layer_name, 0.0) + ms

        return Profiler()

    return made


def _observed(
    engine: TensorRtEngine, times: dict[str, float], rounds: list[dict[str, float]]
) -> Callable[[], None]:
    def run() -> None:
        times.clear()
        engine.infer()
        rounds.append(dict(times))

    return run


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    samples: dict[str, list[float]] = defaultdict(list)
    for times in rounds:
        for layer, ms in times.items():
            samples[layer].append(ms)
    return {layer: median(series) for layer, series in samples.items()}
