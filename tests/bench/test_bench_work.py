"""MACs and bytes of layers, against hand counts; what cannot be counted is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from bench_graphs import Builder, Conv, save_chain, save_detector
from onnx import TensorProto, helper

from bench.errors import BenchError
from bench.work import work_of


def test_convolutions_are_counted_by_hand(tmp_path: Path) -> None:
    convs = [
        Conv("/model.0/conv/Conv", 3, 16),
        Conv("depthwise", 16, 16, groups=16),
        Conv("grouped", 16, 24, groups=4),
        Conv("up", 24, 8, groups=2, transposed=True),
    ]
    net = work_of(save_chain(tmp_path / "net.onnx", convs, shape=(2, 3, 8, 8)))
    cells = 2 * 8 * 8
    assert [layer.macs for layer in net.layers] == [
        cells * 3 * 16,
        cells * 16,
        cells * 24 * 4,
        cells * 24 * 4,
    ]
    assert net.macs == cells * (48 + 16 + 96 + 96)
    assert [layer.kind for layer in net.layers] == [
        "conv 1x1 s1",
        "depthwise conv 1x1 s1",
        "grouped conv 1x1 s1",
        "transposed grouped conv 1x1 s1",
    ]
    first = net.layers[0]
    assert (first.module, first.outputs, first.int8) == ("model.0", 16, False)
    assert first.weight_bytes == 4 * 3 * 16
    assert first.input_bytes == 4 * cells * 3
    assert first.output_bytes == 4 * cells * 16
    assert first.bytes == 4 * (48 + cells * 19)


def test_kernels_and_strides_count(tmp_path: Path) -> None:
    builder = Builder()
    weight = builder.constant("weight", np.ones((4, 3, 5, 3), np.float32))
    builder.add("Conv", ["images", weight], "out", strides=[2, 2], pads=[2, 1, 2, 1])
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT)
    [layer] = work_of(path).layers
    assert layer.kind == "conv 5x3 s2"
    assert layer.macs == 4 * 4 * 4 * 3 * 5 * 3


def test_products_are_counted_and_only_constants_are_weights(tmp_path: Path) -> None:
    builder = Builder()
    weight = builder.constant("weight", np.ones((8, 6), np.float32))
    dense = builder.add("MatMul", ["images", weight], "dense")
    turned = builder.add("Transpose", [dense], "turned", perm=[0, 2, 1])
    builder.add("MatMul", [dense, turned], "out")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 4, 8), TensorProto.FLOAT)
    first, second = work_of(path).layers
    assert (first.macs, first.weight_bytes, first.outputs) == (4 * 8 * 6, 4 * 48, 6)
    assert (second.macs, second.weight_bytes, second.outputs) == (4 * 4 * 6, 0, None)
    assert second.input_bytes == 2 * 4 * 24


def test_integers_count_one_byte(tmp_path: Path) -> None:
    convs = [Conv("first", 3, 16), Conv("second", 16, 24)]
    path = save_chain(tmp_path / "net.onnx", convs, quantized=True)
    first, second = work_of(path).layers
    assert (first.int8, second.int8) == (True, True)
    assert (first.weight_bytes, first.input_bytes) == (48, 64 * 3)
    assert first.output_bytes == 64 * 16  # the second reads it rounded, behind a Relu
    assert second.output_bytes == 4 * 64 * 24  # the net gives floats
    half = work_of(path, float_bits=16).layers
    assert half[1].output_bytes == 2 * 64 * 24
    without = work_of(path, float_bits=16, int8=False).layers
    assert (without[0].int8, without[0].weight_bytes) == (False, 2 * 48)


def test_a_tensor_with_a_float_reader_is_kept_as_floats(tmp_path: Path) -> None:
    builder = Builder(quantized=True)
    stem = builder.conv(Conv("stem", 3, 8), "images")
    head = builder.conv(Conv("head", 8, 8), stem)
    both = builder.add("Add", [stem, head], "both")
    path = builder.save(tmp_path / "net.onnx", [both], (1, 3, 8, 8), TensorProto.FLOAT)
    assert work_of(path).layers[0].output_bytes == 4 * 64 * 8


def test_sizes_that_the_graph_computes_are_followed(tmp_path: Path) -> None:
    builder = Builder()
    stem = builder.conv(Conv("stem", 3, 16), "images")
    one, two = (builder.constant(str(n), np.array(n, np.int64)) for n in (1, 2))
    begin, axes = (builder.constant(n, np.array([v])) for n, v in (("begin", 0), ("axes", 1)))
    shape = builder.add("Shape", [stem], "shape")
    channels = builder.add("Gather", [shape, one], "channels", axis=0)
    half = builder.add("Div", [builder.add("Add", [channels, one], "more"), two], "half")
    unsqueezed = builder.add("Unsqueeze", [half, begin], "end")
    part = builder.add("Slice", [stem, begin, unsqueezed, axes], "part")
    out = builder.conv(Conv("last", 8, 4), part)
    path = builder.save(tmp_path / "net.onnx", [out], (1, 3, 8, 8), TensorProto.FLOAT)
    assert [layer.macs for layer in work_of(path).layers] == [64 * 3 * 16, 64 * 8 * 4]


def test_operators_are_listed_by_module(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save_detector(path, width=8, classes=3, bins=5, quantized=True)
    operators = work_of(path).operators
    assert "Conv" in operators["model.1.dfl"]
    assert not any("Constant" in kinds for kinds in operators.values())


def test_open_shapes_need_one(tmp_path: Path) -> None:
    path = save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 8)], shape=("batch", 3, "h", "w"))
    with pytest.raises(BenchError, match="leaves dimensions of its input 'images' open"):
        work_of(path)
    assert work_of(path, (2, 3, 4, 4)).macs == 2 * 16 * 24
    with pytest.raises(BenchError, match="does not fit"):
        work_of(path, (2, 4, 4, 4))


def save_custom(builder: Builder, output: str, path: Path) -> Path:
    """With the domain ``my.ops`` declared, as every file with operators of its own has it."""
    builder.save(path, [output], (1, 3, 8, 8), TensorProto.FLOAT)
    model = onnx.load(str(path))
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    onnx.save(model, str(path))
    return path


def test_a_custom_operator_before_a_convolution_is_named(tmp_path: Path) -> None:
    builder = Builder()
    builder.nodes.append(
        helper.make_node("Magic", ["images"], ["odd"], name="/model.0/Magic", domain="my.ops")
    )
    out = builder.conv(Conv("stem", 3, 8), "odd")
    path = save_custom(builder, out, tmp_path / "net.onnx")
    with pytest.raises(BenchError, match=r"net\.onnx.*'/model\.0/Magic' \(my\.ops:Magic\)"):
        work_of(path)


def test_a_custom_operator_behind_the_convolutions_does_not_matter(tmp_path: Path) -> None:
    builder = Builder()
    out = builder.conv(Conv("stem", 3, 8), "images")
    builder.nodes.append(helper.make_node("Nms", [out], ["boxes"], name="nms", domain="my.ops"))
    path = save_custom(builder, "boxes", tmp_path / "net.onnx")
    assert work_of(path).macs == 64 * 24


@pytest.mark.parametrize("content", [b"", b"no net", None], ids=["empty", "text", "truncated"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 8)])
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(BenchError, match=r"net\.onnx"):
        work_of(path)
    with pytest.raises(BenchError, match=r"gone\.onnx.*No such file"):
        work_of(tmp_path / "gone.onnx")


def test_a_net_without_layers_is_refused(tmp_path: Path) -> None:
    builder = Builder()
    builder.add("Relu", ["images"], "out")
    path = builder.save(tmp_path / "relu.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT)
    with pytest.raises(BenchError, match="no convolution"):
        work_of(path)
