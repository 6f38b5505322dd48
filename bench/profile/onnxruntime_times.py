"""How long each operator of an ONNX file takes, by ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.loop import Minimum, measure
from bench.optional import require
from bench.runtimes.inputs import fixed_shape, input_type_error, random_input
from bench.runtimes.onnxruntime import session_options

if TYPE_CHECKING:
    from bench.loop import ProgressCallback

_WARMUP_ROUNDS = 2
_KERNEL = "_kernel_time"
_US_PER_MS = 1e3
# kernels that multiply on integers, and on floats; all others are neither
_INT8 = {
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
}
_FLOAT = {
    "Conv",
    "ConvTranspose",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "Gemm",
    "MatMul",
    "NhwcFusedConv",
}
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def node_times(
    models: Mapping[str, Path | bytes],
    *,
    threads: int,
    minimum: Minimum,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    beside: Mapping[str, Callable[[], object]] | None = None,
    progress: ProgressCallback | None = None,
    int8: dict[str, dict[str, set[bool]]] | None = None,
) -> dict[str, dict[str, float]]:
    """Median milliseconds of every operator of several graphs, run in turn on random inputs.

    Operators carry the names that ONNX Runtime leaves them: a fused one has that of a part. Each
    costs a microsecond or so to observe.

    Args:
        models: ONNX files or their bytes, by label; all inputs float.
        threads: of the runtime inside one operator.
        minimum: rounds, and their time in seconds.
        seed: of the random inputs in [0, 1).
        shape: of the inputs, for files that leave it open.
        beside: calls by name to run in turn with the graphs, for what is to be compared with them.
        progress: is told each new percent points of the loop, 100 in all.
        int8: takes up, by label, which convolutions and products ran on integers and which on
            floats: operator -> True, False or, where several have one name, both.

    Returns:
        Label -> operator -> milliseconds, in the order in which operators run.

    Raises:
        BenchError: onnxruntime is missing, or cannot load or run a graph, or an input's shape
            stays open.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        sessions = {
            # a profile of its own each: by default they would be told apart by the second
            label: _profiled_session(label, model, threads, Path(folder) / f"profile{index}")
            for index, (label, model) in enumerate(models.items())
        }
        calls = {label: _call(label, session, seed, shape) for label, session in sessions.items()}
        measure(
            {**calls, **(beside or {})},
            warmup=Minimum(0, _WARMUP_ROUNDS),
            minimum=minimum,
            progress=progress,
        )
        times = {}
        for label, session in sessions.items():
            events = _kernels(Path(session.end_profiling()))
            times[label] = _medians(events)
            if int8 is not None:
                int8[label] = _ran_int8(events)
        return times


def _profiled_session(label: str, model: Path | bytes, threads: int, profile: Path) -> Any:
    runtime = require("onnxruntime")
    options = session_options(runtime, threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(profile)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise BenchError(f"'{label}' cannot be loaded by ONNX Runtime: {error}") from error


def _call(label: str, session: Any, seed: int, shape: Sequence[int] | None) -> Callable[[], object]:
    feeds = {}
    for entry in session.get_inputs():
        if entry.type not in _INPUT_TYPES:
            raise input_type_error(entry.name, entry.type, list(_INPUT_TYPES), Path(label))
        sizes = fixed_shape(entry.name, entry.shape, shape, Path(label))
        feeds[entry.name] = random_input(sizes, _INPUT_TYPES[entry.type], seed)

    def run() -> object:
        try:
            return session.run(None, feeds)
        except Exception as error:  # as above
            raise BenchError(f"'{label}' fails in ONNX Runtime: {error}") from error

    return run


def _kernels(path: Path) -> list[dict[str, Any]]:
    """The profile's events of operators, one a run, under the operators' names."""
    return [
        {**event, "name": event["name"][: -len(_KERNEL)]}
        for event in json.loads(path.read_text())
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)
    ]


def _ran_int8(events: Sequence[Mapping[str, Any]]) -> dict[str, set[bool]]:
    ran: dict[str, set[bool]] = defaultdict(set)
    for event in events:
        kernel = event["args"].get("op_name")
        if kernel in _INT8 or kernel in _FLOAT:
            ran[event["name"]].add(kernel in _INT8)
    return dict(ran)


def _medians(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Operator -> median milliseconds; operators of equal name are added up."""
    samples: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        samples[event["name"], event["args"].get("node_index", "")].append(event["dur"])
    times: dict[str, float] = defaultdict(float)
    for (name, _), durations in samples.items():
        times[name] += median(durations[_WARMUP_ROUNDS:]) / _US_PER_MS
    return dict(times)
