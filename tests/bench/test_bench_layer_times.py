"""From the profiler's operators to layers, and the layers that became slower."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_graphs import Conv, save_chain

from bench.errors import BenchError
from bench.loop import Minimum
from bench.profile.layer_times import LAYOUT, Slower, layer_of, layer_times, share_of, slower_layers
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
