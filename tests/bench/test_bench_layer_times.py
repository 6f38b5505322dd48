"""From the profiler's operators to layers, and the layers that became slower."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_graphs import Conv, save_chain

from bench.errors import BenchError
from bench.loop import Minimum
from bench.profile.layer_times import (
    ACTIVATIONS,
    LAYOUT,
    Slower,
    layer_of,
    layer_times,
    share_of,
    slower_layers,
)
from bench.profile.onnxruntime_times import node_times

QUICK = Minimum(0.05, 11)


@pytest.mark.parametrize(
    ("operator", "layer"),
    [
        ("/model.0/conv/Conv", "model.0"),
        ("/model.2/m.0/cv1/conv/Conv_output_0_nchwc", "model.2.m.0.cv1"),
        ("/model.2/m.0/cv1/act/Mul/QuickGeluFusion/", "model.2.m.0.cv1"),
        ("/model.22/cv2.0/cv2.0.1/act/Mul", "model.22.cv2.0.1"),
        ("/model.22/cv3.1/cv3.1.2/Conv_output_0_nchwc", "model.22.cv3.1.2"),
        ("/model.22/dfl/MatMul", "model.22.dfl"),
        ("/model.14/Concat", "model.14"),
        ("ReorderInput_token_21", LAYOUT),
        ("ReorderOutput", LAYOUT),
        ("Squeeze_token_2", ""),
        ("model.22.cv2.0.0.conv.weight_DequantizeLinear", "model.22.cv2.0.0"),
        ("model.1.conv.bias_int32_dequantized_node", "model.1"),
        ("__module.model.1.conv/aten::_convolution/Convolution", "model.1"),
        ("__module.model.22/aten::view/Reshape", "model.22"),
        ("__module.model.22.cv3.2.1.act/aten::silu_/Swish_2", ACTIVATIONS),
        ("/model.0/conv/Conv/WithoutBiases", "model.0"),
        ("/model.0/conv/Conv + PWN(PWN(/model.0/act/Sigmoid), /model.0/act/Mul)", "model.0"),
        ("PWN(PWN(/model.3/act/Sigmoid), /model.3/act/Mul)", "model.3"),
        ("{ForeignNode[/model.22/Reshape.../model.22/Concat_3]}", "model.22"),
        ("model.1.conv.weight + /model.1/conv/Quantize + /model.1/conv/Conv", "model.1"),
        ("Reformatting CopyNode for Input Tensor 0 to /model.0/conv/Conv", LAYOUT),
        ("__myl_Fc_myl0_1", ""),
    ],
)
def test_layers_are_read_from_operators(operator: str, layer: str) -> None:
    assert layer_of(operator) == layer


def test_operators_of_a_layer_are_added_up() -> None:
    operators = {"/a/conv/Conv": 1.0, "/a/act/Mul": 2.0, "/b/Concat": 4.0, "Squeeze": 1.0}
    assert layer_times(operators) == {"a": 3.0, "b": 4.0, "": 1.0}
    assert share_of(["a", "gone"], operators) == 3 / 8
    assert share_of(["b", "b"], operators) == 4 / 8


def test_the_largest_increase_is_blamed_first() -> None:
    base = {"/a/conv/Conv": 1.0, "/b/conv/Conv": 5.0, "/c/conv/Conv": 1.0}
    other = {"/a/conv/Conv": 2.0, "/b/conv/Conv": 3.0, "/c/conv/Conv": 4.0, "ReorderInput": 1.5}
    assert slower_layers(base, other) == [
        Slower("c", 1.0, 4.0),
        Slower(LAYOUT, 0.0, 1.5),
        Slower("a", 1.0, 2.0),
    ]
    assert slower_layers(base, other, most=1) == [Slower("c", 1.0, 4.0)]
    assert slower_layers(base, base) == []


def test_every_operator_is_timed(tmp_path: Path) -> None:
    convs = [Conv("first", 3, 16), Conv("second", 16, 512), Conv("third", 512, 16)]
    path = save_chain(tmp_path / "net.onnx", convs, shape=(1, 3, 32, 32))
    told: list[int] = []
    times = node_times(
        {"file": path, "bytes": path.read_bytes()}, threads=1, minimum=QUICK, progress=told.append
    )
    assert times.keys() == {"file", "bytes"}
    for operators in times.values():
        first, second = (
            sum(ms for name, ms in operators.items() if name.startswith(conv))
            for conv in ("first", "second")
        )
        assert second > first > 0
    assert sum(told) == 100


def test_a_graph_that_does_not_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="'odd' cannot be loaded"):
        node_times({"odd": b"no net"}, threads=1, minimum=QUICK)


def test_layout_changes_of_openvino_are_named_as_such(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from bench.profile.openvino_times import openvino_node_times

    convs = [Conv("/model.0/conv/Conv", 3, 64), Conv("/model.1/conv/Conv", 64, 64)]
    path = save_chain(tmp_path / "net.onnx", convs, shape=(1, 3, "h", "w"))
    times = openvino_node_times(
        {"net": path}, threads=1, minimum=Minimum(0, 3), shape=(1, 3, 32, 32)
    )
    layers = layer_times(times["net"])
    assert {"model.0", "model.1"} <= layers.keys() <= {"model.0", "model.1", LAYOUT, ""}
