"""Ragged channels, read from ONNX files of several kinds."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from bench_graphs import Builder, Conv, save_chain, save_detector
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from bench.alignment.convs import (
    BOX_BINS,
    HEAD,
    IMAGE,
    Misaligned,
    conv_sides,
    misaligned_convs,
    misalignment_message,
)
from bench.errors import BenchError

channel_counts = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(channel_counts, st.sampled_from([1, 4, 8, 16]), st.booleans())
def test_exactly_the_ragged_inner_channels_are_named(
    hidden: list[int], align: int, quantized: bool
) -> None:
    widths = [3, *hidden, 7]
    convs = [Conv(f"conv{index}", *pair) for index, pair in enumerate(pairwise(widths))]
    with tempfile.TemporaryDirectory() as folder:
        path = save_chain(Path(folder) / "net.onnx", convs, quantized=quantized)
        found = misaligned_convs(path, align)
    expected = set()
    for index, channels in enumerate(hidden):
        if channels % align:
            expected.add(Misaligned(f"conv{index}", "output", channels))
            expected.add(Misaligned(f"conv{index + 1}", "input", channels))
    assert set(found) == expected
    assert len(found) == len(expected)


def test_groups_count_whole_tensors(tmp_path: Path) -> None:
    path = save_chain(
        tmp_path / "net.onnx",
        [
            Conv("stem", 3, 24),
            Conv("depthwise", 24, 24, groups=24),
            Conv("grouped", 24, 36, groups=2),
            Conv("up", 36, 24, groups=4, transposed=True),
            Conv("last", 24, 5),
        ],
    )
    assert misaligned_convs(path, 8) == [
        Misaligned("grouped", "output", 36),
        Misaligned("up", "input", 36),
    ]


@pytest.mark.parametrize("quantized", [False, True])
def test_what_the_task_fixes_is_exempt_with_its_reason(tmp_path: Path, quantized: bool) -> None:
    path = tmp_path / "yolo.onnx"
    save_detector(path, width=16, classes=3, bins=5, quantized=quantized)
    assert misaligned_convs(path, 8) == []
    exempt = {(conv.layer, conv.side): conv.exempt for conv in conv_sides(path) if conv.exempt}
    assert exempt == {
        ("/model.0/Conv", "input"): IMAGE,
        ("/model.1/cv3.1/Conv", "output"): HEAD,
        ("/model.1/cv2/Conv", "output"): HEAD,
        ("/model.1/dfl/Conv", "input"): BOX_BINS,
        ("/model.1/dfl/Conv", "output"): HEAD,
    }


def test_hidden_channels_of_the_head_are_not_exempt(tmp_path: Path) -> None:
    path = tmp_path / "yolo.onnx"
    save_detector(path, width=12, classes=3, bins=5, quantized=False)
    assert [(fault.layer, fault.side) for fault in misaligned_convs(path, 8)] == [
        ("/model.0/Conv", "output"),
        ("/model.1/cv3.0/Conv", "input"),
        ("/model.1/cv3.0/Conv", "output"),
        ("/model.1/cv3.1/Conv", "input"),
        ("/model.1/cv2/Conv", "input"),
    ]


def test_one_channel_without_a_softmax_is_no_dfl(tmp_path: Path) -> None:
    convs = [Conv("stem", 3, 8), Conv("middle", 8, 6), Conv("narrow", 6, 1)]
    path = save_chain(tmp_path / "net.onnx", convs)
    assert misaligned_convs(path, 8) == [
        Misaligned("middle", "output", 6),
        Misaligned("narrow", "input", 6),
    ]


def test_several_channels_behind_a_softmax_are_no_dfl(tmp_path: Path) -> None:
    builder = Builder()
    data = builder.conv(Conv("stem", 3, 6), "images")
    attention = builder.add("Softmax", [data], "attention", axis=1)
    out = builder.conv(Conv("projection", 6, 2), attention)
    path = builder.save(tmp_path / "net.onnx", [out], (1, 3, 8, 8), TensorProto.FLOAT)
    assert misaligned_convs(path, 8) == [
        Misaligned("stem", "output", 6),
        Misaligned("projection", "input", 6),
    ]


def test_a_named_layer_is_exempt_for_the_given_reason(tmp_path: Path) -> None:
    convs = [Conv("stem", 3, 6), Conv("middle", 6, 8), Conv("last", 8, 5)]
    path = save_chain(tmp_path / "net.onnx", convs)
    assert misaligned_convs(path, 8, {"middle": "runs on the CPU"}) == [
        Misaligned("stem", "output", 6)
    ]
    assert "runs on the CPU" in {
        conv.exempt for conv in conv_sides(path, {"middle": "runs on the CPU"})
    }
    with pytest.raises(BenchError, match=r"no convolution \['midle'\]"):
        misaligned_convs(path, 8, {"midle": "a slip"})


def test_weights_in_a_constant_node_are_read(tmp_path: Path) -> None:
    builder = Builder()
    data = builder.conv(Conv("stem", 3, 6), "images")
    weight = onnx.numpy_helper.from_array(np.ones((4, 6, 1, 1), np.float32))
    builder.add("Constant", [], "weight", value=weight)
    builder.add("Conv", [data, "weight"], "out", name="last")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT)
    assert misaligned_convs(path, 4) == [
        Misaligned("stem", "output", 6),
        Misaligned("last", "input", 6),
    ]


def test_computed_weights_are_refused_by_name(tmp_path: Path) -> None:
    builder = Builder()
    raw = builder.constant("raw", np.ones((8, 3, 1, 1), np.float32))
    builder.add("Mul", [raw, raw], "weight")
    builder.add("Conv", ["images", "weight"], "out", name="odd")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT)
    with pytest.raises(BenchError, match=r"net\.onnx.*'odd'.*constant folding"):
        misaligned_convs(path, 8)


@pytest.mark.parametrize("content", [b"", b"not a net", None], ids=["empty", "text", "truncated"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 8)])
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(BenchError, match=r"net\.onnx.*(xport it again|no convolution)"):
        misaligned_convs(path, 8)


def test_missing_file_and_net_without_convolutions(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"gone\.onnx.*No such file"):
        misaligned_convs(tmp_path / "gone.onnx", 8)
    builder = Builder()
    builder.add("Relu", ["images"], "out")
    path = builder.save(tmp_path / "relu.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT)
    with pytest.raises(BenchError, match="no convolution"):
        misaligned_convs(path, 8)


def test_an_invalid_graph_is_refused_by_name(tmp_path: Path) -> None:
    builder = Builder()
    builder.add("Conv", ["images"], "out", name="odd")
    path = builder.save(tmp_path / "net.onnx", ["out"], (1, 3, 8, 8), TensorProto.FLOAT)
    with pytest.raises(BenchError, match=r"net\.onnx' is no valid ONNX graph"):
        misaligned_convs(path, 8)


def test_message_tells_file_layer_side_and_channels() -> None:
    text = misalignment_message({"pruned": [Misaligned("/model.2/Conv", "input", 13)]}, 8)
    row = next(line for line in text.splitlines() if "model.2" in line)
    assert row.split() == ["pruned", "model.2", "input", "13", "3"]
    assert "multiple of 8" in text
    assert "align: 8" in text
