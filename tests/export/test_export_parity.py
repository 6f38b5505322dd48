"""An exported file computes what PyTorch does: each tensor to one step, the whole by its scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_nets import Exported, export_all, steps_apart
from onnx import numpy_helper
from slow import slow
from small_nets import output_of, settled_net
from torch import Tensor, nn

from export.errors import ExportError
from export.parity import Parity, compare, run_onnx

FLOAT_LAYERS = [["model.0"], ["model.2.cv1", "model.9.cv1"], ["model.4.m.0.cv2"], ["model.1?"]]


def parity(model: nn.Module, path: Path, images: Tensor) -> Parity:
    expected = [output_of(model, image[None]).numpy() for image in images]
    return compare(expected, run_onnx(path, [image[None].numpy() for image in images]))


@pytest.mark.parametrize("optimize", [True, False])
def test_each_tensor_is_at_most_one_step_off(
    exported: Exported, images: Tensor, optimize: bool
) -> None:
    for image in images[:3].split(1):
        steps = steps_apart(exported.simulation, exported.onnxruntime, image, optimize)
        assert len(steps) == sum(len(group) for group in exported.simulation.points) > 150
        assert {tensor: n for tensor, n in steps.items() if n > 1} == {}
        assert sum(steps.values()) < 0.3 * len(steps)  # of tensors, one value is enough


@pytest.mark.parametrize("float_layers", [*slow(*FLOAT_LAYERS[:2]), *FLOAT_LAYERS[2:]])
def test_so_it_is_beside_float_layers(
    net: nn.Module, images: Tensor, tmp_path: Path, float_layers: list[str]
) -> None:
    mixed = export_all(net, images, tmp_path, float_layers)
    assert 30 < len(mixed.ranges.convs) < 53
    steps = steps_apart(mixed.simulation, mixed.onnxruntime, images[:1], optimize=True)
    assert {tensor: n for tensor, n in steps.items() if n > 1} == {}


def silence(net: nn.Module, weight: float) -> None:
    """Channels that are next to dead, but whose bias still speaks."""
    for layer in (net.model[1], net.model[3], net.model[12].cv1):
        layer.bn.weight.data[::2] *= weight
        layer.bn.bias.data[::2] = 0.7
        if weight == 0.0:
            layer.conv.weight.data[::2] = 0.0


@pytest.mark.parametrize("weight", [*slow(0.0), 1e-6])
def test_the_bias_of_a_dead_channel_is_kept(
    net: nn.Module, images: Tensor, tmp_path: Path, weight: float
) -> None:
    silence(net, weight)
    exported = export_all(net, images, tmp_path)
    for optimize in (True, False):
        steps = steps_apart(exported.simulation, exported.onnxruntime, images[:1], optimize)
        assert {tensor: n for tensor, n in steps.items() if n > 1} == {}


@pytest.mark.parametrize("activation", [*slow("ReLU()"), "Hardswish()"])
def test_other_activations_too(
    activation: str, net_yaml: Path, images: Tensor, tmp_path: Path
) -> None:
    yaml = tmp_path / "other.yaml"
    yaml.write_text(f"activation: nn.{activation}\n{net_yaml.read_text()}")
    exported = export_all(settled_net(yaml, images), images, tmp_path)
    steps = steps_apart(exported.simulation, exported.onnxruntime, images[:1], optimize=True)
    assert {tensor: n for tensor, n in steps.items() if n > 1} == {}


def test_end_to_end(exported: Exported, images: Tensor) -> None:
    float_file = parity(exported.net, exported.float_onnx, images)
    assert float_file.cells > 100
    assert float_file.worst_score < 1e-4
    assert float_file.box < 1e-3
    simulated = parity(exported.simulation.model, exported.onnxruntime, images)
    assert simulated.cells > 100
    assert simulated.score < 0.06  # ties that round differently, through 53 layers
    assert simulated.box < 1.0
    for path in (exported.onnxruntime, exported.tensorrt):
        against_float = parity(exported.net, path, images)
        assert 0 < against_float.score < 0.12
        assert against_float.box < 2.0


@pytest.mark.parametrize("opset", [13, *slow(20)])
def test_every_opset_computes_the_same(
    exported: Exported, images: Tensor, tmp_path: Path, opset: int
) -> None:
    other = export_all(exported.net, images, tmp_path, opset=opset)
    for path in (other.float_onnx, other.onnxruntime, other.tensorrt):
        assert onnx.load(str(path)).opset_import[0].version == opset
    steps = steps_apart(other.simulation, other.onnxruntime, images[:1], optimize=True)
    assert max(steps.values()) <= 1
    assert parity(other.net, other.float_onnx, images[:2]).worst_score < 1e-4
    assert parity(other.net, other.tensorrt, images[:2]).score < 0.12


def test_differences_are_measured_on_confident_cells_only() -> None:
    one, other = np.zeros((1, 7, 4), np.float32), np.zeros((1, 7, 4), np.float32)
    one[0, 4:, :2] = [[0.9, 0.1], [0.0, 0.1], [0.0, 0.1]]  # cell 0 is confident, cell 1 is not
    other[0, 4:, :2] = [[0.6, 0.2], [0.0, 0.2], [0.3, 0.2]]
    other[0, 5, 2] = 0.5  # cell 2 only there
    other[0, :4, 0] = [1, 2, 3, 9]
    other[0, :4, 3] = 1000  # cell 3 in neither
    found = compare([one, one], [other, one])
    assert found.cells == 3
    assert found.worst_score == pytest.approx(0.5)
    assert found.score == pytest.approx((0.3 + 0.3 + 0.5) / 9)
    assert found.box == pytest.approx(np.median([1, 2, 3, 9] + [0] * 8))


def test_nothing_confident_is_no_difference_and_says_so() -> None:
    quiet = [np.zeros((1, 7, 4), np.float32)]
    assert compare(quiet, quiet) == Parity(0.0, 0.0, 0.0, 0)


def broken_copy(path: Path, folder: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(folder / "broken.onnx"))
    return folder / "broken.onnx"


def nan_weight(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "model.1.conv.bias")
    values = numpy_helper.to_array(tensor).copy()
    values[:] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def narrow_weight(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "model.1.conv.weight")
    values = numpy_helper.to_array(tensor)[:, :3]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize(
    ("change", "text"),
    [(nan_weight, "broken.onnx: its output is NaN"), (narrow_weight, "broken.onnx: ONNX Runtime")],
)
def test_a_broken_file_is_refused_by_name(
    exported: Exported,
    images: Tensor,
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    text: str,
) -> None:
    path = broken_copy(exported.float_onnx, tmp_path, change)
    with pytest.raises(ExportError, match=text):
        run_onnx(path, [images[:1].numpy()])


def test_images_of_another_size_are_refused_by_name(exported: Exported) -> None:
    with pytest.raises(ExportError, match=r"float\.onnx: ONNX Runtime cannot run it"):
        run_onnx(exported.float_onnx, [np.zeros((1, 3, 96, 96), np.float32)])


def test_no_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x08\x12")
    for name in ("missing.onnx", "cut.onnx"):
        with pytest.raises(ExportError, match=name):
            run_onnx(tmp_path / name, [])
