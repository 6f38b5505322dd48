"""What each runtime needs of its Q/DQ file, and that ONNX Runtime really runs it in INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_nets import Exported, QdqGraph, export_all
from slow import slow
from small_nets import IMGSZ, output_of, settled_net
from torch import Tensor, nn

from compress.quantize.calibration import calibrate
from compress.quantize.prepare import float_graph, simulate
from compress.stages.parity import simulation_of
from export.dialects import DIALECTS, as_read_by, write_dialect
from export.placement import find_placement
from export.ranges import GroupRange, Ranges, load_ranges


def test_onnxruntime_convolutions_are_u8_in_s8_per_channel_int32_bias(
    exported: Exported,
) -> None:
    graph, by_tensor = QdqGraph(exported.onnxruntime), exported.ranges.by_tensor()
    for conv in graph.convs(exported.ranges):
        source, weight, bias = conv.input
        _, input_scale, input_zero = graph.dequantized(source)
        integers, scales, zeros = graph.dequantized(weight)
        biases, bias_scales, bias_zeros = graph.dequantized(bias)
        assert input_zero.dtype == np.uint8
        assert input_scale.shape == ()
        assert integers.dtype == np.int8
        assert zeros.dtype == np.int8
        assert biases.dtype == np.int32
        assert not zeros.any()
        assert not bias_zeros.any()
        assert scales.shape == bias_scales.shape == (len(integers),)
        assert np.abs(integers.astype(int)).reshape(len(integers), -1).max(1).tolist() == [
            127
        ] * len(integers)
        assert np.array_equal(bias_scales, scales * input_scale)
        readers = graph.readers[conv.output[0]]
        assert [reader.op_type for reader in readers] == ["QuantizeLinear"]
        group = by_tensor[conv.output[0]]
        assert graph.stored[readers[0].input[1]] == np.float32(group.scale)
        assert graph.stored[readers[0].input[2]] == group.zero_point


def test_onnxruntime_rounds_every_tensor_of_a_group_and_nothing_else(exported: Exported) -> None:
    graph = QdqGraph(exported.onnxruntime)
    rounded = [node.input[0] for node in graph.of_type("QuantizeLinear")]
    # copies of pixels need no rounding of their own
    upsampled = ["/model.10/Resize_output_0", "/model.13/Resize_output_0"]
    assert sorted(rounded + upsampled) == sorted(exported.ranges.by_tensor())
    assert not graph.of_type("Resize")
    for node in graph.of_type("QuantizeLinear"):
        readers = graph.readers[node.input[0]]
        assert readers == [node]  # nobody reads past the rounding


def test_the_bias_and_weight_of_a_file_are_those_of_the_net(exported: Exported) -> None:
    graph, plain = QdqGraph(exported.onnxruntime), QdqGraph(exported.float_onnx)
    names = {conv.name: conv for conv in plain.of_type("Conv")}
    for conv in graph.convs(exported.ranges):
        weight, bias = (plain.stored[name] for name in names[conv.name].input[1:])
        integers, scales, _ = graph.dequantized(conv.input[1])
        error = np.abs(integers * scales.reshape(-1, 1, 1, 1) - weight)
        assert (error <= 0.501 * scales.reshape(-1, 1, 1, 1)).all()
        biases, bias_scales, _ = graph.dequantized(conv.input[2])
        assert (np.abs(biases * bias_scales - bias) <= 0.501 * bias_scales + 1e-7).all()


def operators_as_run(path: Path, folder: Path) -> list[str]:
    """Operators of the graph that ONNX Runtime makes of the file."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "as_run.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(str(folder / "as_run.onnx")).graph.node]


def test_onnxruntime_runs_every_int8_convolution_in_int8(
    exported: Exported, tmp_path: Path
) -> None:
    operators = operators_as_run(exported.onnxruntime, tmp_path)
    heads = 6
    assert operators.count("QLinearConv") == len(exported.ranges.convs) == 53
    assert operators.count("Conv") + operators.count("FusedConv") == heads
    assert operators.count("QLinearSigmoid") == operators.count("QLinearMul") == 53
    # in at the image, out before the heads' last convolutions: no other way through float
    assert operators.count("QuantizeLinear") == 1
    assert operators.count("DequantizeLinear") <= heads


def test_a_float_first_layer_is_left_to_float_kernels(
    net: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    mixed = export_all(net, images, tmp_path, ["model.0"])
    operators = operators_as_run(mixed.onnxruntime, tmp_path)
    assert operators.count("QLinearConv") == len(mixed.ranges.convs) == 52
    graph = QdqGraph(mixed.onnxruntime)
    first = next(conv for conv in graph.of_type("Conv") if conv.input[0] == "images")
    assert graph.stored[first.input[1]].dtype == np.float32


def test_tensorrt_rounds_inputs_and_weights_of_convolutions_symmetrically_to_s8(
    exported: Exported,
) -> None:
    graph, by_tensor = QdqGraph(exported.tensorrt), exported.ranges.by_tensor()
    convs = graph.convs(exported.ranges)
    for conv in convs:
        source, weight, bias = conv.input
        _, scale, zero = graph.dequantized(source)
        integers, scales, zeros = graph.dequantized(weight)
        assert zero.dtype == zeros.dtype == integers.dtype == np.int8
        assert not zero.any()
        assert not zeros.any()
        assert scales.shape == (len(integers),)
        assert graph.stored[bias].dtype == np.float32
        quantize = graph.producer[graph.producer[source].input[0]]
        group = by_tensor[quantize.input[0]]
        assert 127 * scale == pytest.approx(max(-group.low, group.high), rel=1e-6)
    for values in graph.stored.values():
        assert values.dtype not in (np.uint8, np.int32)


def test_tensorrt_has_nothing_between_convolution_and_silu(exported: Exported) -> None:
    graph = QdqGraph(exported.tensorrt)
    for conv in graph.convs(exported.ranges):
        readers = graph.readers[conv.output[0]]
        assert sorted(reader.op_type for reader in readers) == ["Mul", "Sigmoid"]
        (sigmoid,) = [reader for reader in readers if reader.op_type == "Sigmoid"]
        (product,) = graph.readers[sigmoid.output[0]]
        assert product.op_type == "Mul"
        assert set(product.input) == {conv.output[0], sigmoid.output[0]}


@pytest.mark.parametrize("dialect", ["onnxruntime", "tensorrt"])
def test_int8_weights_are_stored_once_and_small(exported: Exported, dialect: str) -> None:
    path: Path = getattr(exported, dialect)
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    names = [tensor.name for tensor in model.graph.initializer]
    used = {name for node in model.graph.node for name in node.input}
    assert len(names) == len(set(names))
    assert set(names) <= used
    assert path.stat().st_size < 0.5 * exported.float_onnx.stat().st_size
    plain = onnx.load(str(exported.float_onnx))
    assert list(model.metadata_props) == list(plain.metadata_props)
    assert [o.name for o in model.graph.output] == [o.name for o in plain.graph.output]


def test_a_dialect_does_not_touch_its_sources(exported: Exported, tmp_path: Path) -> None:
    before = exported.float_onnx.read_bytes()
    exported.ranges.save(tmp_path / "ranges.json")
    ranges = load_ranges(tmp_path / "ranges.json")
    write_dialect("onnxruntime", exported.float_onnx, ranges, tmp_path / "again.onnx")
    assert exported.float_onnx.read_bytes() == before
    assert (tmp_path / "again.onnx").read_bytes() == exported.onnxruntime.read_bytes()


def test_every_integer_of_a_weight_comes_from_its_own_layer(
    net: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    """Equal weights in two layers must not be taken for one layer."""
    one, other = net.model[2].m[0].cv1, net.model[2].m[0].cv2
    other.load_state_dict(one.state_dict())
    exported = export_all(net, images, tmp_path)
    assert len(exported.ranges.convs) == 53
    graph = QdqGraph(exported.onnxruntime)
    twins = [c for c in graph.convs(exported.ranges) if c.name.startswith("/model.2/m.0/")]
    first, second = (graph.dequantized(conv.input[1])[0] for conv in twins)
    assert np.array_equal(first, second)
    names = {tensor.name for tensor in onnx.load(str(exported.float_onnx)).graph.initializer}
    assert {"model.2.m.0.cv1.conv.weight", "model.2.m.0.cv2.conv.weight"} <= names


@pytest.fixture(scope="module")
def relu_net(net_yaml: Path, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    yaml = tmp_path_factory.mktemp("relu") / "relu.yaml"
    yaml.write_text(f"activation: nn.ReLU()\n{net_yaml.read_text()}")
    return settled_net(yaml, images)


@pytest.mark.parametrize(
    "targets", [*slow(["onnxruntime"], ["onnxruntime", "tensorrt"]), [*DIALECTS]]
)
def test_relu_becomes_part_of_int8_convolutions_whatever_else_is_asked_for(
    relu_net: nn.Module, images: Tensor, tmp_path: Path, targets: list[str]
) -> None:
    """A range that is symmetric for another runtime is read from 0 on."""
    simulation = simulate(relu_net, IMGSZ, [], targets)
    calibrate(simulation, [images], "minmax", 100.0)
    ranges = simulation.ranges(targets, [0.0] * len(simulation.points))
    symmetric = {group.zero_point for group in ranges.groups} >= {128}
    assert symmetric == ("tensorrt" in targets)
    onnx.save(float_graph(relu_net, IMGSZ), str(tmp_path / "float.onnx"))
    path = tmp_path / "int8.onnx"
    write_dialect("onnxruntime", tmp_path / "float.onnx", ranges, path)
    operators = operators_as_run(path, tmp_path)
    assert operators.count("QLinearConv") == len(ranges.convs) == 53
    assert operators.count("Conv") + operators.count("FusedConv") == 6
    assert "Relu" not in operators
    graph = QdqGraph(path)
    rounded = [n for n in graph.of_type("QuantizeLinear") if n.input[0].endswith("Relu_output_0")]
    assert len(rounded) == 53
    assert all(graph.stored[node.input[2]] == 0 for node in rounded)


def test_each_runtime_reads_the_ranges_in_its_own_way(relu_net: nn.Module) -> None:
    graph = float_graph(relu_net, IMGSZ)
    whole = find_placement(graph, [], [*DIALECTS])
    placements = {target: find_placement(graph, [], [target]) for target in DIALECTS}
    for zero_point in (0, 40, 128):
        made = tuple(GroupRange(0.5, zero_point, 0.01, group.tensors) for group in whole.groups)
        ranges = Ranges(tuple(DIALECTS), made, whole.convs)
        onnxruntime, tensorrt, openvino = (
            as_read_by(target, ranges, placement).by_tensor()
            for target, placement in placements.items()
        )
        for tensor, found in openvino.items():
            assert (found.scale, found.zero_point) == (0.5, zero_point), tensor
        relus = [tensor for tensor in onnxruntime if tensor.endswith("Relu_output_0")]
        assert relus
        for tensor in relus:
            expected = GroupRange(0.5, zero_point % 128, 0.01, onnxruntime[tensor].tensors)
            assert onnxruntime[tensor] == expected  # the same grid, so nothing is rounded anew
        for found in tensorrt.values():
            assert found.zero_point == 128
            largest = 0.5 * max(zero_point, 255 - zero_point)
            assert 127 * found.scale == pytest.approx(63.5 if zero_point == 128 else largest)


def rounded_before(graph: QdqGraph, tensor: str) -> list[str]:
    """The dequantized tensors that ``tensor`` is, or is put together of."""
    node = graph.producer[tensor]
    if node.op_type == "DequantizeLinear":
        return [tensor]
    assert node.op_type in ("Concat", "Split", "MaxPool", "Resize")
    moved = node.input if node.op_type == "Concat" else node.input[:1]
    return [source for name in moved for source in rounded_before(graph, name)]


def test_openvino_rounds_nothing_that_is_only_moved(exported: Exported) -> None:
    graph = QdqGraph(exported.openvino)
    for node in graph.of_type("QuantizeLinear"):
        maker = graph.producer.get(node.input[0])
        assert maker is None or maker.op_type not in ("Concat", "Split", "MaxPool", "Resize")


def test_openvino_rounds_inputs_of_convolutions_to_u8_and_keeps_biases_float(
    exported: Exported,
) -> None:
    graph, by_tensor = QdqGraph(exported.openvino), exported.ranges.by_tensor()
    for conv in graph.convs(exported.ranges):
        source, weight, bias = conv.input
        integers, scales, zeros = graph.dequantized(weight)
        group = by_tensor.get(source)
        for rounded in rounded_before(graph, source):
            _, scale, zero = graph.dequantized(rounded)
            own = by_tensor[graph.producer[graph.producer[rounded].input[0]].input[0]]
            assert zero.dtype == np.uint8
            assert (scale, zero) == (np.float32(own.scale), own.zero_point)
            assert group in (None, own)
        assert integers.dtype == zeros.dtype == np.int8
        assert not zeros.any()
        assert scales.shape == (len(integers),)
        assert graph.stored[bias].dtype == np.float32
        readers = graph.readers[conv.output[0]]
        assert sorted(reader.op_type for reader in readers) == ["Mul", "Sigmoid"]
        (sigmoid,) = [reader for reader in readers if reader.op_type == "Sigmoid"]
        assert [reader.op_type for reader in graph.readers[sigmoid.output[0]]] == ["Mul"]


def test_openvino_computes_what_the_simulation_does(exported: Exported, images: Tensor) -> None:
    openvino = pytest.importorskip("openvino")
    simulation = simulation_of(exported.net, exported.ranges, "openvino", exported.float_onnx)
    expected, plain = output_of(simulation.model, images), output_of(exported.net, images)
    compiled = openvino.Core().compile_model(str(exported.openvino), "CPU")
    found = torch.cat([torch.from_numpy(compiled(image.numpy())[0]) for image in images.split(1)])
    near, far = ((found - other).abs()[:, 4:].mean() for other in (expected, plain))
    assert near < 0.35 * far


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("bits", [4, *slow(2, 7)])
def test_weights_of_few_bits_end_as_few_integers(
    net: nn.Module, images: Tensor, tmp_path: Path, target: str, bits: int
) -> None:
    simulation = simulate(net, IMGSZ, [], [target], weight_bits=bits)
    calibrate(simulation, [images], "minmax", 100.0)
    ranges = simulation.ranges([target], [0.0] * len(simulation.points))
    onnx.save(float_graph(net, IMGSZ), str(tmp_path / "float.onnx"))
    write_dialect(target, tmp_path / "float.onnx", ranges, tmp_path / "int8.onnx")
    graph, most = QdqGraph(tmp_path / "int8.onnx"), 2 ** (bits - 1) - 1
    for conv in graph.convs(ranges):
        integers, scales, _ = graph.dequantized(conv.input[1])
        assert integers.dtype == np.int8
        assert np.abs(integers.astype(int)).max() == most
        name = graph.producer[conv.input[1]].input[0].removesuffix(".weight_int8")
        weight = simulation.convolution(name).weight
        expected = simulation.weights[name](weight).detach().numpy()
        assert np.allclose(integers * scales.reshape(-1, 1, 1, 1), expected, rtol=1e-5, atol=1e-7)
