"""Whether the model's first convolution is INT8: by the recipe's word, or by measured time.

It sees three channels, which INT8 kernels pad to more, on the largest map of all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import onnx
from torch import nn

from bench.devices.machine import read_machine
from bench.entries import ONNXRUNTIME, OPENVINO
from bench.run import bench_files
from bench.settings import Settings
from compress.pipeline.contract import Context
from compress.pipeline.files import canonical_json, read_json, write_json
from compress.quantize.prepare import float_graph, head_convs
from compress.recipe.sections import Quantization
from export.dialects import write_dialect
from export.graph_view import GraphView
from export.patterns import matching
from export.placement import QuantizationGroup, find_placement
from export.ranges import SYMMETRIC_ZERO, GroupRange, Ranges

FOLDER = "first_conv"
_THREADS = 1
_COUNT = 25
_PERCENT = 100
# of measuring: longer where it is not sure yet
_SECONDS = (4.0, 12.0, 36.0)
_NARROW = 0.02


@dataclass(frozen=True)
class FirstConvTimes:
    """Median ms of two INT8 graphs: the first convolution in INT8, or float.

    ``speedup`` is INT8 / float, ``low`` and ``high`` its 95 % interval.
    """

    int8_ms: float
    float_ms: float
    speedup: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval tells which one is faster, or that neither is by much."""
        return not self.low <= 1 <= self.high or self.high - self.low <= _NARROW

    @property
    def stays_float(self) -> bool:
        """Whether float is no slower: it is the more exact one."""
        return self.high >= 1


def float_layers_of(
    model: nn.Module, config: Quantization, context: Context
) -> tuple[list[str], list[str]]:
    """The layers that stay float by ``float_layers`` and ``first_conv`` of the recipe.

    Args:
        model: a float model, not fused.
        config: what becomes INT8.
        context: of the stage; times are kept in its ``shared`` folder.

    Returns:
        Patterns and names of convolutions, and notes on the choice for the report.

    Raises:
        ExportError: PyTorch cannot export the model.
        BenchError: the runtime cannot run it.
    """
    given = list(config.float_layers)
    if config.first_conv == "int8":
        return given, []
    graph = float_graph(model, context.imgsz)
    first = first_convs(graph)
    if all(any(matching([name], pattern) for pattern in given) for name in first):
        return given, []
    chosen = [*given, *first]
    if config.first_conv == "float":
        return chosen, []
    what = f"the first convolution ({', '.join(first)})"
    target = next((name for name in config.target if _runs_here(name)), None)
    if target is None:
        return chosen, [f"{what} stays float: no runtime of the recipe runs here to measure it"]
    kept = [*given, *([] if config.quantize_head else head_convs(model, graph))]
    times = _stored_times(graph, kept, first, target, context)
    stays, other = ("float", "INT8") if times.stays_float else ("INT8", "float")
    note = (
        f"{what} is {stays}: on {target}, one thread, the INT8 graph takes "
        f"{times.float_ms:.2f} ms with it in float and {times.int8_ms:.2f} ms with it in INT8 "
        f"(ratio {times.low:.3f} to {times.high:.3f}); `first_conv: {other.lower()}` decides "
        "otherwise"
    )
    return (chosen if times.stays_float else given), [note]


def first_convs(graph: onnx.ModelProto) -> list[str]:
    """Module names of the convolutions that read the image with no other one in between."""
    view = GraphView(graph)
    found: dict[str, None] = {}
    left, seen = [graph.graph.input[0].name], set()
    while left:
        tensor = left.pop()
        for node in view.readers(tensor) if tensor not in seen else ():
            name = view.conv(node)
            if name is None:
                left.extend(node.output)
            else:
                found[name] = None
        seen.add(tensor)
    return list(found)


def _runs_here(target: str) -> bool:
    return target in (ONNXRUNTIME, OPENVINO) and find_spec(target) is not None


def _stored_times(
    graph: onnx.ModelProto, kept: list[str], first: list[str], target: str, context: Context
) -> FirstConvTimes:
    """Measured once for this machine, these runtimes and this structure; weights do not matter."""
    machine = read_machine()
    facts = {
        "structure": [
            hashlib.sha256(node.SerializeToString(deterministic=True)).hexdigest()
            for node in graph.graph.node
        ],
        "weights": {tensor.name: list(tensor.dims) for tensor in graph.graph.initializer},
        "imgsz": context.imgsz,
        "float": sorted(kept),
        "target": target,
        "version": _version(target),
        "machine": {"cpu": machine.cpu, "cores": machine.usable_cores},
    }
    key = hashlib.sha256(canonical_json(facts).encode()).hexdigest()
    file = context.shared / FOLDER / f"{key[:32]}.json"
    stored = read_json(file)
    if stored:
        return FirstConvTimes(**stored)
    times = _measured(graph, kept, first, target, context)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, asdict(times))
    return times


def _version(target: str) -> str | None:
    try:
        return importlib.metadata.version(target)
    except importlib.metadata.PackageNotFoundError:  # a build of another name, such as for GPUs
        return None


def _measured(
    graph: onnx.ModelProto, kept: list[str], first: list[str], target: str, context: Context
) -> FirstConvTimes:
    folder = context.scratch / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        _write_int8(graph, kept, target, folder / "int8.onnx"),
        _write_int8(graph, [*kept, *first], target, folder / "float.onnx"),
    ]
    for seconds in _SECONDS:
        with context.progress.task("first convolution in INT8 or float", _PERCENT) as bar:
            result = bench_files(
                files,
                Settings(
                    threads=_THREADS,
                    min_seconds=seconds,
                    min_count=_COUNT,
                    seed=context.seed,
                    energy_seconds=0,
                ),
                runtimes=[target, target],
                progress=bar.advance,
            )
        int8, other = result["rows"]
        low, high = other["speedup_ci"]
        times = FirstConvTimes(
            int8["latency_ms"]["p50"], other["latency_ms"]["p50"], other["speedup"], low, high
        )
        if times.sure:
            break
    return times


def _write_int8(graph: onnx.ModelProto, float_layers: list[str], target: str, path: Path) -> Path:
    """An INT8 graph to be timed: its ranges are made up, for speed does not depend on them."""
    source = path.with_suffix(".source.onnx")
    onnx.save(graph, str(source))
    placement = find_placement(graph, float_layers, [target])
    groups = tuple(_made_up(group) for group in placement.groups)
    write_dialect(target, source, Ranges((target,), groups, placement.convs), path)
    return path


def _made_up(group: QuantizationGroup) -> GroupRange:
    """-6 to 6, or 0 to 6 where no value is negative: there a runtime fuses ReLU by its range."""
    if group.activated:
        return GroupRange(6 / 255, 0, 0.0, group.tensors)
    return GroupRange(12 / 255, SYMMETRIC_ZERO, 0.0, group.tensors)
