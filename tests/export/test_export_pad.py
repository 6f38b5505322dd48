"""Padded head outputs: the same values, aligned convolutions, ranges and placement that fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from export_nets import Exported
from onnx import TensorProto, helper, numpy_helper
from small_nets import IMGSZ

from bench.alignment.convs import HEAD, conv_sides
from export.dialects import write_dialect
from export.pad import pad_file, pad_outputs
from export.parity import run_onnx
from export.placement import find_placement

MULTIPLE = 48  # neither of the 64 box bins nor of the 3 classes


@pytest.fixture(scope="module")
def padded(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("padded") / "float.onnx"
    path.write_bytes(exported.float_onnx.read_bytes())
    pad_file(path, MULTIPLE)
    return path


def noise(count: int = 2) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.random((1, 3, IMGSZ, IMGSZ), np.float32) for _ in range(count)]


def test_outputs_are_the_same(exported: Exported, padded: Path) -> None:
    plain, wide = run_onnx(exported.float_onnx, noise()), run_onnx(padded, noise())
    for expected, actual in zip(plain, wide, strict=True):
        assert np.abs(expected - actual).max() < 1e-6 * np.abs(expected).max()


def test_the_heads_outputs_become_aligned_and_nothing_else_changes(
    exported: Exported, padded: Path
) -> None:
    before, after = conv_sides(exported.float_onnx), conv_sides(padded)
    assert len(before) == len(after)
    heads = 0
    for plain, wide in zip(before, after, strict=True):
        assert (plain.layer, plain.side, plain.exempt) == (wide.layer, wide.side, wide.exempt)
        if plain.exempt == HEAD:
            heads += 1
            assert wide.channels == -(-plain.channels // MULTIPLE) * MULTIPLE
        else:
            assert wide.channels == plain.channels
    assert heads == 6


def test_a_graph_that_is_aligned_stays_as_it_is(exported: Exported) -> None:
    model = onnx.load(str(exported.float_onnx))
    assert pad_outputs(model, 1).graph.node == model.graph.node
    assert pad_outputs(model, 1).graph.initializer == model.graph.initializer


def test_metadata_inputs_and_outputs_are_kept(exported: Exported, padded: Path) -> None:
    before, after = onnx.load(str(exported.float_onnx)), onnx.load(str(padded))
    assert before.metadata_props == after.metadata_props
    assert before.graph.input == after.graph.input
    assert before.graph.output == after.graph.output


def test_placement_is_that_of_the_plain_graph(exported: Exported, padded: Path) -> None:
    plain = find_placement(onnx.load(str(exported.float_onnx)), ["model.22.cv2.0.2"])
    assert find_placement(onnx.load(str(padded)), ["model.22.cv2.0.2"]) == plain


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_int8_dialects_compute_the_same_from_a_padded_graph(
    exported: Exported, padded: Path, tmp_path: Path, target: str
) -> None:
    path = tmp_path / "int8.onnx"
    write_dialect(target, padded, exported.ranges, path)
    plain, wide = run_onnx(getattr(exported, target), noise()), run_onnx(path, noise())
    for expected, actual in zip(plain, wide, strict=True):
        assert np.abs(expected - actual).max() < 1e-4 * np.abs(expected).max()
    assert {side.channels % MULTIPLE for side in conv_sides(path) if side.exempt == HEAD} == {0}


def _mask_head(path: Path) -> Path:
    """Two convolutions; the last one's SiLU is an output itself, and its sum another."""
    shapes = {"a.weight": (8, 3, 1, 1), "a.bias": (8,), "b.weight": (5, 8, 1, 1), "b.bias": (5,)}
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["images", "a.weight", "a.bias"], ["hidden"], "/a/Conv"),
        helper.make_node("Conv", ["hidden", "b.weight", "b.bias"], ["raw"], "/b/Conv"),
        helper.make_node("Sigmoid", ["raw"], ["gate"], "/b/act/Sigmoid"),
        helper.make_node("Mul", ["raw", "gate"], ["masks"], "/b/act/Mul"),
        helper.make_node("ReduceSum", ["masks"], ["sum"], "/sum"),
    ]
    outputs = {"masks": [1, 5, 4, 4], "sum": [1, 1, 1, 1]}
    graph = helper.make_graph(
        nodes,
        "masks",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_an_activation_that_is_an_output_keeps_its_name_and_width(tmp_path: Path) -> None:
    path = _mask_head(tmp_path / "masks.onnx")
    image = [np.ones((1, 3, 4, 4), np.float32)]
    before = run_onnx(path, image)[0]
    pad_file(path, 8)
    after = run_onnx(path, image)[0]
    assert after.shape == (1, 5, 4, 4)
    assert np.array_equal(before, after)
    nodes = onnx.load(str(path)).graph.node
    assert [node.op_type for node in nodes].count("Slice") == 1  # behind the activation, once
    assert [(s.channels, s.exempt == HEAD) for s in conv_sides(path)][-1] == (8, True)
