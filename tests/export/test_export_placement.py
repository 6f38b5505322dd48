"""Where a graph is quantized: points, groups that share a scale, what stays float."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from export_nets import Exported
from onnx import TensorProto, helper
from small_nets import IMGSZ, NAMES

from compress.models.build import build_model
from compress.models.exportable import exportable
from compress.models.inspect import head_outputs
from export.errors import ExportError
from export.float_onnx import export_float
from export.placement import Placement, Point, conv_names, find_placement

MOVING = {"Concat", "MaxPool", "Resize", "Split"}


class Sketch:
    """A graph drawn node by node; a convolution ``a`` stands for module ``a.conv``."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def conv(self, name: str, source: str) -> str:
        weight = f"{name}.conv.weight"
        self.weights.append(helper.make_tensor(weight, TensorProto.FLOAT, (1, 1, 1, 1), [1.0]))
        return self.node("Conv", f"/{name}/conv/Conv", [source, weight], [f"{name}.out"])[0]

    def node(
        self, operator: str, name: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> list[str]:
        self.nodes.append(helper.make_node(operator, list(inputs), list(outputs), name))
        return list(outputs)

    def model(self) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("images", TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "sketch", [image], [], self.weights)
        return helper.make_model(graph)


def groups_of(placement: Placement) -> set[frozenset[str]]:
    return {frozenset(group.tensors) for group in placement.groups}


def points_of(placement: Placement) -> set[tuple[str, str, str]]:
    return {(p.tensor, p.operator, p.module) for g in placement.groups for p in g.points}


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs"),
    [
        ("Concat", ["a.out", "b.out"], ["moved"]),
        ("MaxPool", ["a.out"], ["moved"]),
        ("Resize", ["a.out", "", "scales"], ["moved"]),
        ("Split", ["a.out", "sizes"], ["moved", "rest"]),
    ],
)
def test_movers_share_one_scale_with_what_they_move(
    operator: str, inputs: list[str], outputs: list[str]
) -> None:
    sketch = Sketch()
    sketch.conv("a", "images")
    sketch.conv("b", "images")
    sketch.weights.append(helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2]))
    sketch.weights.append(helper.make_tensor("sizes", TensorProto.INT64, [2], [1, 1]))
    sketch.node(operator, "/move", inputs, outputs)
    sketch.conv("c", "moved")
    moved = {name for name in inputs if name.endswith(".out")}
    placement = find_placement(sketch.model(), [])
    alone = {frozenset({name}) for name in {"images", "a.out", "b.out", "c.out"} - moved}
    assert groups_of(placement) == {frozenset(moved | set(outputs)), *alone}
    assert {tensor for tensor, _, _ in points_of(placement)} == {
        "images",
        "a.out",
        "b.out",
        "c.out",
    }


def test_groups_grow_through_chains_of_movers() -> None:
    sketch = Sketch()
    for name in "abc":
        sketch.conv(name, "images")
    sketch.node("Concat", "/join", ["a.out", "b.out"], ["ab"])
    sketch.node("MaxPool", "/pool", ["ab"], ["pooled"])
    sketch.node("Concat", "/again", ["pooled", "c.out"], ["abc"])
    sketch.conv("d", "abc")
    shared = {"a.out", "b.out", "ab", "pooled", "c.out", "abc"}
    found = groups_of(find_placement(sketch.model(), []))
    assert found == {frozenset(shared), frozenset({"images"}), frozenset({"d.out"})}


def test_computing_operators_get_scales_of_their_own() -> None:
    sketch = Sketch()
    sketch.conv("a", "images")
    sketch.node("Sigmoid", "/a/act/Sigmoid", ["a.out"], ["gate"])
    sketch.node("Mul", "/a/act/Mul", ["a.out", "gate"], ["silu"])
    sketch.conv("b", "silu")
    sketch.node("Add", "/block/Add", ["silu", "b.out"], ["sum"])
    placement = find_placement(sketch.model(), [])
    assert points_of(placement) == {
        ("images", "Input", ""),
        ("a.out", "Conv", "a"),
        ("gate", "Sigmoid", "a"),
        ("silu", "Mul", "a"),
        ("b.out", "Conv", "b"),
        ("sum", "Add", "block"),
    }
    assert all(len(group.tensors) == 1 for group in placement.groups)


def test_quantization_ends_where_an_operator_is_not_known() -> None:
    sketch = Sketch()
    sketch.conv("a", "images")
    sketch.node("Softmax", "/soft", ["a.out"], ["soft"])
    sketch.node("Mul", "/mul", ["soft", "a.out"], ["product"])
    sketch.node("Concat", "/join", ["product", "a.out"], ["joined"])
    found = groups_of(find_placement(sketch.model(), []))
    assert found == {frozenset({"images"}), frozenset({"a.out"})}


def test_a_float_convolution_is_read_but_not_rounded_behind() -> None:
    sketch = Sketch()
    sketch.conv("a", "images")
    sketch.conv("b", "a.out")
    sketch.node("Sigmoid", "/b/act/Sigmoid", ["b.out"], ["gate"])
    placement = find_placement(sketch.model(), ["b"])
    assert placement.convs == ("a.conv",)
    assert groups_of(placement) == {frozenset({"images"}), frozenset({"a.out"})}


def test_what_an_int8_convolution_reads_is_rounded_where_it_is_computed() -> None:
    """Also when a float layer computes it and a mover lies in between."""
    sketch = Sketch()
    sketch.conv("a", "images")
    sketch.conv("b", "images")
    sketch.node("Concat", "/join", ["a.out", "b.out"], ["joined"])
    sketch.node("MaxPool", "/pool", ["joined"], ["pooled"])
    sketch.conv("c", "pooled")
    placement = find_placement(sketch.model(), ["a", "b"])
    shared = {"a.out", "b.out", "joined", "pooled"}
    assert groups_of(placement) == {frozenset(shared), frozenset({"c.out"})}
    assert points_of(placement) == {
        ("a.out", "Conv", "a"),
        ("b.out", "Conv", "b"),
        ("c.out", "Conv", "c"),
    }


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "openvino"])
def test_a_tensor_inside_of_a_module_is_rounded_by_its_convolutions_alone(target: str) -> None:
    """PyTorch can round only what a module gives out, or what a convolution takes."""
    sketch = Sketch()
    sketch.conv("block.a", "images")
    sketch.node("ReduceMean", "/block/ReduceMean", ["block.a.out"], ["mean"])
    sketch.conv("block.b", "mean")
    sketch.conv("block.c", "mean")
    placement = find_placement(sketch.model(), [], [target])
    (group,) = [group for group in placement.groups if group.for_readers]
    assert group.tensors == ("mean",)
    assert group.points == (
        Point("mean", "Reader", "block.b"),
        Point("mean", "Reader", "block.c"),
    )
    (left,) = [
        g for g in find_placement(sketch.model(), ["block.b"], [target]).groups if g.for_readers
    ]
    assert [point.module for point in left.points] == ["block.c"]


def residual() -> onnx.ModelProto:
    """Two blocks with SiLU, a sum of both, a convolution behind it."""
    sketch = Sketch()
    for name, source in [("a", "images"), ("block.b", "a.silu")]:
        sketch.conv(name, source)
        sketch.node(
            "Sigmoid", f"/{name.replace('.', '/')}/act/Sigmoid", [f"{name}.out"], [f"{name}.gate"]
        )
        sketch.node(
            "Mul",
            f"/{name.replace('.', '/')}/act/Mul",
            [f"{name}.out", f"{name}.gate"],
            [f"{name}.silu"],
        )
    sketch.node("Add", "/block/Add", ["a.silu", "block.b.silu"], ["sum"])
    sketch.conv("c", "sum")
    return sketch.model()


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_runtimes_that_fuse_activations_round_only_what_convolutions_read(target: str) -> None:
    found = find_placement(residual(), [], [target])
    assert {point.tensor for group in found.groups for point in group.points} == {
        "images",
        "a.silu",
        "sum",  # its skip is rounded, its other side is not
    }
    assert {group.symmetric for group in found.groups} == {target == "tensorrt"}


def test_of_several_targets_every_point_is_rounded() -> None:
    model = residual()
    one, other = (find_placement(model, [], [target]) for target in ("onnxruntime", "tensorrt"))
    both = find_placement(model, [], ["onnxruntime", "tensorrt"])
    assert points_of(both) == points_of(one) | points_of(other)
    symmetric = {t for group in both.groups if group.symmetric for t in group.tensors}
    assert symmetric == {t for group in other.groups for t in group.tensors}


@pytest.mark.parametrize("operator", ["Relu", "Clip"])
def test_an_activation_that_becomes_part_of_the_convolution_is_rounded_once(operator: str) -> None:
    sketch = Sketch()
    sketch.conv("a", "images")
    sketch.node(operator, f"/a/act/{operator}", ["a.out"], ["active"])
    sketch.conv("b", "active")
    placement = find_placement(sketch.model(), [])
    assert points_of(placement) == {
        ("images", "Input", ""),
        ("active", operator, "a"),
        ("b.out", "Conv", "b"),
    }


NET_FLOAT_LAYERS = [
    [],
    ["model.0"],
    ["model.2.cv1", "model.4.m.0.cv2"],
    ["model.9"],
    ["*.cv2.conv"],
]


@pytest.mark.parametrize("float_layers", NET_FLOAT_LAYERS)
def test_every_quantized_tensor_of_a_net_is_in_exactly_one_group(
    exported: Exported, float_layers: list[str]
) -> None:
    model = onnx.load(str(exported.float_onnx))
    placement = find_placement(model, [*head_outputs(exported.net), *float_layers])
    tensors = [tensor for group in placement.groups for tensor in group.tensors]
    assert len(tensors) == len(set(tensors))
    group_of = {t: index for index, g in enumerate(placement.groups) for t in g.tensors}
    for group in placement.groups:
        assert group.points  # a range that nobody computes could not be found
        assert {point.tensor for point in group.points} <= set(group.tensors)
    names = {node.name: node.input[1].removesuffix(".weight") for node in convs(model)}
    for node in convs(model):
        if names[node.name] in placement.convs:
            assert {node.input[0], node.output[0]} <= group_of.keys()
    for node in model.graph.node:
        if node.op_type in MOVING and group_of.keys() & set(node.output):
            data = node.input if node.op_type == "Concat" else node.input[:1]
            assert len({group_of[name] for name in [*data, *node.output]}) == 1


def convs(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def test_points_name_modules_of_the_net(exported: Exported) -> None:
    modules = {name for name, _ in exported.net.named_modules()}
    for group in exported.simulation.placement.groups:
        assert {point.module for point in group.points} <= modules


def test_head_outputs_and_decode_stay_float(exported: Exported) -> None:
    placement = exported.simulation.placement
    heads = head_outputs(exported.net)
    assert len(heads) == 6
    assert set(conv_names(onnx.load(str(exported.float_onnx)))) == {*placement.convs, *heads}
    assert not set(heads) & set(placement.convs)
    tensors = {tensor for group in placement.groups for tensor in group.tensors}
    model = onnx.load(str(exported.float_onnx))
    for node in convs(model):
        if node.input[1].removesuffix(".weight") in heads:
            assert node.output[0] not in tensors
    assert not any("dfl" in tensor or "output0" in tensor for tensor in tensors)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("model.2", r"model\.2\..*"),  # and not model.22
        ("model.2.cv1", r"model\.2\.cv1\.conv"),
        ("model.2.cv1.conv", r"model\.2\.cv1\.conv"),
        ("*.cv2.conv", r".*\.cv2\.conv"),
        ("model.1?.cv1*", r"model\.1.\.cv1\.conv"),
    ],
)
def test_float_layers_are_prefixes_or_patterns(
    exported: Exported, pattern: str, expected: str
) -> None:
    model = onnx.load(str(exported.float_onnx))
    everything = set(find_placement(model, []).convs)
    kept = everything - set(find_placement(model, [pattern]).convs)
    assert len(everything) == 59
    assert kept == {name for name in everything if re.fullmatch(expected, name)} != set()


def test_a_pattern_that_matches_nothing_shows_real_names(exported: Exported) -> None:
    model = onnx.load(str(exported.float_onnx))
    with pytest.raises(ExportError, match=r"'model\.99' matches no convolution.*model\.0\.conv"):
        find_placement(model, ["model.0", "model.99"])


def test_attention_reads_rounded_values_and_stays_float_inside(
    net_yaml: Path, tmp_path: Path
) -> None:
    yaml = tmp_path / "attention.yaml"
    text = net_yaml.read_text().replace("[-1, 1, SPPF, [512, 5]]", "[-1, 1, C2PSA, [512]]")
    yaml.write_text(text)
    net = build_model(yaml, NAMES, 0)
    export_float(exportable(net), IMGSZ, tmp_path / "attention.onnx")
    model = onnx.load(str(tmp_path / "attention.onnx"))
    placement = find_placement(model, head_outputs(net))
    assert {name for name in conv_names(model) if name not in placement.convs} == set(
        head_outputs(net)
    )
    readers = {p.module for group in placement.groups if group.for_readers for p in group.points}
    assert {"model.9.m.0.attn.proj", "model.9.m.0.attn.pe", "model.9.m.0.ffn.0"} <= readers
