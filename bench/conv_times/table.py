"""Times of single convolutions: what a layer would cost with other channel counts.

Measured once for a machine on a small grid of channel counts a layer geometry, kept in a folder.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.conv_times.graph import Geometry, conv_graph, conv_ms
from bench.devices.machine import read_machine
from bench.loop import Minimum
from bench.profile.onnxruntime_times import node_times

if TYPE_CHECKING:
    from bench.loop import ProgressCallback

    _Axes = tuple[tuple[int, ...], tuple[int, ...]]

SCHEMA = 1
_FACTS = ("cpu", "onnxruntime", "threads", "step")
_MINIMUM = Minimum(seconds=8.0, count=9)
_PROBE = Minimum(seconds=0.2, count=50)
_DENSE = 96  # up to here the outputs' grid has every step: beyond, kernels repeat
_SAME = 0.9  # a share of another time above which both count as equal


@dataclass(frozen=True)
class ConvShape:
    """A convolution whose filters see ``inputs`` channels each (1 if depthwise)."""

    geometry: Geometry
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Grid:
    """Milliseconds at every pair of some channel counts, both in ascending order."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def at(self, inputs: float, outputs: float) -> float:
        """Bilinear between the four points around; beyond the grid the nearest edge."""
        row, down = _between(self.inputs, inputs)
        column, across = _between(self.outputs, outputs)
        upper, lower = self.ms[row], self.ms[min(row + 1, len(self.ms) - 1)]
        next_column = min(column + 1, len(upper) - 1)
        first = upper[column] * (1 - across) + upper[next_column] * across
        second = lower[column] * (1 - across) + lower[next_column] * across
        return first * (1 - down) + second * down


@dataclass(frozen=True)
class LayerTable:
    """Grids of layer geometries, and what they hold for.

    A kernel works on blocks of ``step`` channels: fewer cost as much as a whole block.
    """

    cpu: str
    onnxruntime: str | None
    threads: int
    step: int
    grids: Mapping[Geometry, Grid]

    def ms(self, shape: ConvShape) -> float:
        """Milliseconds of one convolution.

        Raises:
            KeyError: its geometry was not measured.
        """
        inputs = shape.inputs if shape.geometry.groups != 1 else _ceil(shape.inputs, self.step)
        return self.grids[shape.geometry].at(inputs, _ceil(shape.outputs, self.step))

    def covers(self, shape: ConvShape) -> bool:
        """Whether ``ms`` knows this and all narrower shapes."""
        grid = self.grids.get(shape.geometry)
        return (
            grid is not None
            and grid.inputs[-1] >= shape.inputs
            and grid.outputs[-1] >= shape.outputs
        )

    def save(self, folder: Path) -> Path:
        """Write as JSON, to a file of its own for each machine, runtime and number of threads."""
        path = _file_of(folder, self.cpu, self.onnxruntime, self.threads)
        grids = [{**asdict(key), **asdict(grid)} for key, grid in self.grids.items()]
        facts = {key: getattr(self, key) for key in _FACTS}
        path.parent.mkdir(parents=True, exist_ok=True)
        half_written = path.with_name(f"{path.name}.{os.getpid()}")
        half_written.write_text(json.dumps({"schema": SCHEMA, **facts, "grids": grids}) + "\n")
        half_written.replace(path)
        return path


def load_table(folder: Path, threads: int = 1) -> LayerTable | None:
    """This machine's table of those that ``LayerTable.save`` wrote to ``folder``.

    None where there is none for its CPU, its ONNX Runtime and ``threads``, or a damaged one.
    """
    machine = read_machine()
    try:
        path = _file_of(folder, machine.cpu, machine.onnxruntime, threads)
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            return None
        grids = dict(map(_read_grid, content["grids"]))
        facts = {key: content[key] for key in _FACTS}
        return LayerTable(**facts, grids=grids)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file_of(folder: Path, cpu: str, onnxruntime: str | None, threads: int) -> Path:
    facts = f"{cpu} onnxruntime {onnxruntime} threads {threads}"
    return folder / f"{re.sub('[^A-Za-z0-9.]+', '-', facts)}.json"


def _read_grid(entry: dict[str, Any]) -> tuple[Geometry, Grid]:
    key = Geometry(*(entry[name] for name in Geometry.__dataclass_fields__))
    rows = tuple(tuple(map(float, row)) for row in entry["ms"])
    return key, Grid(tuple(entry["inputs"]), tuple(entry["outputs"]), rows)


def measured_table(
    shapes: Iterable[ConvShape],
    folder: Path,
    threads: int = 1,
    progress: ProgressCallback | None = None,
    minimum: Minimum = _MINIMUM,
) -> LayerTable:
    """The table that covers ``shapes``: from its file where it can, the rest measured and added.

    Args:
        shapes: the widest form of each layer.
        folder: of the tables, one for each machine, ONNX Runtime and number of threads.
        threads: of the runtime inside one operator, >= 1.
        progress: is told each new percent points of the measuring, 100 in all.
        minimum: rounds of the measuring, and their time in seconds.

    Raises:
        BenchError: onnx or onnxruntime is missing, or a convolution does not run.
    """
    known = load_table(folder, threads)
    if known is None:
        machine = read_machine()
        known = LayerTable(
            machine.cpu, machine.onnxruntime, threads, _channel_step(threads), grids={}
        )
    missing = [shape for shape in shapes if not known.covers(shape)]
    if not missing:
        return known
    grids = _measure_grids(_axes(missing, known), threads, minimum, progress)
    table = replace(known, grids={**known.grids, **grids})
    table.save(folder)
    return table


def _axes(shapes: Iterable[ConvShape], known: LayerTable) -> dict[Geometry, _Axes]:
    """The channel counts to measure for each geometry: up to the widest layer of all."""
    widest: dict[Geometry, tuple[int, int]] = {}
    for shape in shapes:
        grid = known.grids.get(shape.geometry)
        before = (grid.inputs[-1], grid.outputs[-1]) if grid else (0, 0)
        inputs, outputs = widest.get(shape.geometry, before)
        widest[shape.geometry] = max(inputs, shape.inputs), max(outputs, shape.outputs)
    return {
        geometry: (
            _axis(inputs, known.step, 2.0, dense=0) if geometry.groups == 1 else (inputs,),
            _axis(outputs, known.step, 1.34, dense=_DENSE),
        )
        for geometry, (inputs, outputs) in widest.items()
    }


def _axis(most: int, step: int, factor: float, dense: int) -> tuple[int, ...]:
    """Multiples of ``step`` up to ``most``: all up to ``dense``, then in a geometric row."""
    if most < step:
        return (most,)
    counts = [step]
    while counts[-1] < most:
        following = counts[-1] + step
        if following > dense:
            following = max(following, _ceil(int(counts[-1] * factor), step))
        counts.append(min(following, _ceil(most, step)))
    return tuple(counts)


def _measure_grids(
    axes: Mapping[Geometry, _Axes],
    threads: int,
    minimum: Minimum,
    progress: ProgressCallback | None,
) -> dict[Geometry, Grid]:
    names = {geometry: "-".join(map(str, astuple(geometry))) for geometry in axes}
    graphs = {
        names[geometry]: conv_graph(geometry, product(inputs, outputs))
        for geometry, (inputs, outputs) in axes.items()
    }
    times = node_times(graphs, threads=threads, minimum=minimum, progress=progress)
    return {
        geometry: Grid(
            inputs,
            outputs,
            tuple(
                tuple(conv_ms(times[names[geometry]], seen, out) for out in outputs)
                for seen in inputs
            ),
        )
        for geometry, (inputs, outputs) in axes.items()
    }


def _channel_step(threads: int) -> int:
    """How many channels a kernel works on at once: 16, 8 or 4, found by timing ragged counts."""
    geometry = Geometry(3, 1, 1, 40, 40, silu=False)
    counts = (20, 24, 32)
    graph = conv_graph(geometry, [(64, count) for count in counts])
    times = node_times({"step": graph}, threads=threads, minimum=_PROBE)["step"]
    twenty, ragged, whole = (conv_ms(times, 64, count) for count in counts)
    if ragged > _SAME * whole:
        return 16
    return 8 if twenty > _SAME * ragged else 4


def _ceil(channels: int, step: int) -> int:
    return -(-channels // step) * step


def _between(axis: Sequence[int], value: float) -> tuple[int, float]:
    """Index of the last point at or below ``value``, and the share of the way to the next."""
    index = max(0, bisect_right(axis, value) - 1)
    if index == len(axis) - 1:
        return index, 0.0
    share = (value - axis[index]) / (axis[index + 1] - axis[index])
    return index, min(max(share, 0.0), 1.0)
