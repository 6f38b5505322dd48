"""Times of single convolutions: the graphs that are timed, the table, its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench.conv_times.table
from bench.conv_times.graph import DEPTHWISE, Geometry, conv_graph, conv_ms
from bench.conv_times.table import ConvShape, Grid, LayerTable, load_table, measured_table
from bench.devices.machine import read_machine
from bench.loop import Minimum

POINTWISE = Geometry(kernel=1, stride=1, groups=1, height=16, width=16, silu=True)
STRIDED = Geometry(kernel=3, stride=2, groups=1, height=16, width=16, silu=False)
DEPTH = Geometry(kernel=3, stride=1, groups=DEPTHWISE, height=16, width=16, silu=True)
QUICK = Minimum(0.05, 5)

axes = st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True).map(sorted).map(tuple)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    inputs, outputs = draw(axes), draw(axes)
    times = st.lists(st.floats(0, 100), min_size=len(outputs), max_size=len(outputs))
    rows = draw(st.lists(times.map(tuple), min_size=len(inputs), max_size=len(inputs)))
    return Grid(inputs, outputs, tuple(rows))


@given(grids())
def test_a_grid_gives_back_what_was_measured(grid: Grid) -> None:
    for row, inputs in enumerate(grid.inputs):
        for column, outputs in enumerate(grid.outputs):
            assert grid.at(inputs, outputs) == pytest.approx(grid.ms[row][column])


@given(grids(), st.integers(0, 50), st.integers(0, 50))
def test_between_points_a_grid_stays_between_their_times(grid: Grid, a: int, b: int) -> None:
    times = [ms for row in grid.ms for ms in row]
    assert min(times) - 1e-9 <= grid.at(a, b) <= max(times) + 1e-9


def test_a_grid_is_exact_where_times_are_bilinear() -> None:
    counts = (16, 32, 64)
    grid = Grid(
        counts, counts, tuple(tuple(3.0 + i + 2 * o + i * o for o in counts) for i in counts)
    )
    assert grid.at(40, 24) == pytest.approx(3 + 40 + 2 * 24 + 40 * 24)


def table(step: int = 16) -> LayerTable:
    grid = Grid((16, 32), (16, 32, 48), ((1.0, 2.0, 3.0), (2.0, 4.0, 6.0)))
    depth = Grid((1,), (16, 32), ((1.0, 2.0),))
    return LayerTable("a cpu", "1.2", 2, step, {POINTWISE: grid, DEPTH: depth})


def own_table() -> LayerTable:
    """The same as if this machine had measured it."""
    machine = read_machine()
    return replace(table(), cpu=machine.cpu, onnxruntime=machine.onnxruntime)


def test_a_part_of_a_block_costs_as_much_as_a_whole_one() -> None:
    ms = table().ms
    assert ms(ConvShape(POINTWISE, 17, 33)) == ms(ConvShape(POINTWISE, 32, 48)) == 6.0
    assert ms(ConvShape(DEPTH, 1, 17)) == ms(ConvShape(DEPTH, 1, 32)) == 2.0


def test_a_table_knows_its_layers_and_all_narrower_ones() -> None:
    assert table().covers(ConvShape(POINTWISE, 32, 48))
    assert table().covers(ConvShape(POINTWISE, 5, 8))
    assert not table().covers(ConvShape(POINTWISE, 48, 48))
    assert not table().covers(ConvShape(STRIDED, 16, 16))


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    path = own_table().save(tmp_path / "folder")
    assert load_table(tmp_path / "folder", threads=2) == own_table()
    assert list((tmp_path / "folder").iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": 0}', '{"schema": 1, "grids": [{}]}'])
def test_a_damaged_file_is_no_table(tmp_path: Path, text: str) -> None:
    own_table().save(tmp_path).write_text(text)
    assert load_table(tmp_path, threads=2) is None
    assert load_table(tmp_path / "gone", threads=2) is None


@pytest.mark.parametrize("geometry", [POINTWISE, STRIDED, DEPTH, replace(STRIDED, groups=2)])
def test_a_graph_holds_each_convolution_as_the_net_would(geometry: Geometry) -> None:
    pairs = [(1, 8), (1, 16)] if geometry.groups == DEPTHWISE else [(8, 16), (16, 4), (3, 16)]
    content = conv_graph(geometry, pairs)
    model = onnx.load_from_string(content)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    kernel = (geometry.kernel, geometry.kernel)
    assert [weights[conv.input[1]] for conv in convs] == [(o, i, *kernel) for i, o in pairs]
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    feeds = {entry.name: np.ones(entry.shape, np.float32) for entry in session.get_inputs()}
    outputs = session.run(None, feeds)
    assert [output.shape for output in outputs] == [(1, out, 1, 1) for _, out in pairs]


def test_times_are_summed_over_a_convolution_and_its_activation_alone() -> None:
    times = {"16x8/conv_nchwc": 1.0, "16x8/silu/fused": 2.0, "average16x8": 4.0, "16x80/conv": 8.0}
    assert conv_ms(times, 16, 8) == 3.0


def test_a_table_is_measured_once_and_then_extended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = ConvShape(replace(POINTWISE, height=32, width=32), 256, 256)
    first = measured_table([wide, ConvShape(DEPTH, 1, 48)], tmp_path, minimum=QUICK)
    assert first.covers(wide)
    assert first.ms(wide) > 3 * first.ms(ConvShape(wide.geometry, 32, 32)) > 0
    again = measured_table([ConvShape(wide.geometry, 64, 128)], tmp_path, minimum=QUICK)
    assert again == first
    more = measured_table([ConvShape(STRIDED, 3, 20)], tmp_path, minimum=QUICK)
    assert more.grids.keys() == {*first.grids, STRIDED}
    assert more.grids[wide.geometry] == first.grids[wide.geometry]
    assert load_table(tmp_path) == more
    monkeypatch.setattr(bench.conv_times.table, "node_times", None)  # nothing left to measure
    assert measured_table([wide, ConvShape(STRIDED, 3, 16)], tmp_path, minimum=QUICK) == more


def test_tables_of_machines_runtimes_and_threads_live_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = own_table()
    others = [replace(kept, **fact) for fact in ({"cpu": "b"}, {"onnxruntime": "0"})]
    paths = [entry.save(tmp_path) for entry in (kept, *others)]
    found = measured_table([ConvShape(STRIDED, 3, 16)], tmp_path, threads=1, minimum=QUICK)
    assert found.grids.keys() == {STRIDED}
    assert found.step in {4, 8, 16}
    assert len({*paths, *tmp_path.iterdir()}) == 4
    monkeypatch.setattr(bench.conv_times.table, "node_times", None)  # nothing is measured twice
    for _ in range(2):
        again = measured_table([ConvShape(STRIDED, 3, 16)], tmp_path, threads=1)
        assert again == found
        assert measured_table([ConvShape(DEPTH, 1, 16)], tmp_path, threads=2) == kept
