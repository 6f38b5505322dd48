"""Each rounded tensor of an INT8 file against its simulation: exact, or found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_nets import IMGSZ, output_of, settled_net
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.exportable import export_metadata, exportable
from compress.models.head_form import HeadForm
from compress.pipeline.contract import Context
from compress.quantize.calibration import calibrate
from compress.quantize.prepare import simulate
from compress.quantize.recording import rounded_tensors
from compress.stages.parity import ParityImages, parity_metrics, simulation_of
from export.dialects import DIALECTS, write_dialect
from export.errors import ExportError
from export.float_onnx import export_float
from export.ranges import Ranges
from export.tensor_parity import TensorParity, compare_tensors

NETS = ("plain", "attention", "relu")
SPPF = "[-1, 1, SPPF, [512, 5]]"


class Made:
    """A net calibrated for all targets at once, and its files."""

    def __init__(self, net: nn.Module, images: Tensor, folder: Path, quantize_head: bool) -> None:
        simulation = simulate(net, IMGSZ, [], tuple(DIALECTS), quantize_head)
        calibrate(simulation, [images], "minmax", 100.0)
        self.net = net
        self.ranges: Ranges = simulation.ranges(
            tuple(DIALECTS), [0.0] * len(simulation.placement.groups)
        )
        self.float_onnx = folder / "float.onnx"
        export_float(exportable(net), IMGSZ, self.float_onnx, metadata=export_metadata(net, IMGSZ))
        self.files = {target: folder / f"{target}.onnx" for target in DIALECTS}
        for target, path in self.files.items():
            write_dialect(target, self.float_onnx, self.ranges, path)
        self.simulations = {
            target: simulation_of(net, self.ranges, target, self.float_onnx) for target in DIALECTS
        }

    def compared(self, target: str, image: Tensor, path: Path | None = None) -> list[TensorParity]:
        expected = rounded_tensors(self.simulations[target], image)
        return compare_tensors(path or self.files[target], image.numpy(), expected)


@pytest.fixture(scope="module")
def made(
    net_yaml: Path, images: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Made]:
    text = net_yaml.read_text()
    texts = {
        "plain": text,
        "attention": text.replace(SPPF, "[-1, 1, C2PSA, [512]]"),
        "relu": f"activation: nn.ReLU()\n{text}",
    }
    found = {}
    for name in NETS:
        folder = tmp_path_factory.mktemp(name)
        (folder / "net.yaml").write_text(texts[name])
        net = settled_net(folder / "net.yaml", images)
        found[name] = Made(net, images, folder, quantize_head=name == "attention")
    return found


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("name", NETS)
def test_a_true_file_is_off_by_a_step_at_most(
    made: Mapping[str, Made], images: Tensor, name: str, target: str
) -> None:
    whole = made[name]
    for image in images[:2].split(1):
        rows = whole.compared(target, image)
        assert len(rows) >= 45
        simulation = whole.simulations[target]
        points = {point.tensor for group in simulation.placement.groups for point in group.points}
        assert {row.tensor for row in rows} == points
        assert max(row.worst for row in rows) <= 1
        assert all(row.moved == 0 and row.steps < 0.01 and row.sqnr > 40 for row in rows)


def test_the_head_and_the_inside_of_attention_are_compared_too(
    made: Mapping[str, Made], images: Tensor
) -> None:
    whole = made["attention"]
    head = {conv for conv in whole.ranges.convs if conv.startswith("model.22")}
    assert len(head) == 18  # with the six that give the outputs
    tensors = {row.tensor for row in whole.compared("onnxruntime", images[:1])}
    assert {"/model.22/cv2.0/cv2.0.2/Conv_output_0", "/model.22/cv3.2/cv3.2.2/Conv_output_0"} <= (
        tensors
    )
    readers = [
        group for group in whole.simulations["tensorrt"].placement.groups if group.for_readers
    ]
    assert readers
    assert {group.name for group in readers} <= {
        row.tensor for row in whole.compared("tensorrt", images[:1])
    }


def test_recording_gives_what_every_quantizer_gave_and_leaves_no_trace(
    made: Mapping[str, Made], images: Tensor
) -> None:
    simulation, image = made["plain"].simulations["onnxruntime"], images[:1]
    found = rounded_tensors(simulation, image)
    given: dict[str, list[float]] = {group.name: [] for group, _ in simulation.groups}
    hooks = [
        quantizer.register_forward_hook(
            lambda module, read, out, to=given[group.name]: to.append(float(out.double().sum()))
        )
        for group, quantizer in simulation.groups
    ]
    output_of(simulation.model, image)
    for hook in hooks:
        hook.remove()
    for group, quantizer in simulation.groups:
        sums = []
        for point in group.points:
            integers, zero_point = found[point.tensor]
            assert integers.dtype == np.uint8
            assert zero_point == made["plain"].ranges.by_tensor()[point.tensor].zero_point
            sums.append((integers.astype(float) - zero_point).sum() * float(quantizer.scale))
        assert sorted(sums) == pytest.approx(sorted(given[group.name]), rel=1e-4, abs=1e-3)
    assert all(hook.record is None for points in simulation.points for _, hook in points)


def stored(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def change(model: onnx.ModelProto, name: str, by: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = stored(model, name)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(by(values), values.dtype), name))


def wider_weights(model: onnx.ModelProto) -> None:
    change(model, "model.4.cv1.conv.weight_scale", lambda scale: 1.1 * scale)


def one_wide_channel(model: onnx.ModelProto) -> None:
    change(
        model,
        "model.4.cv1.conv.weight_scale",
        lambda scale: scale * np.where(scale == scale[2], 1.1, 1),
    )


def shifted_weights(model: onnx.ModelProto) -> None:
    change(model, "model.4.cv1.conv.weight_zero_point", lambda zero: zero + 5)


def wider_activation(model: onnx.ModelProto) -> None:
    change(model, "/model.4/cv1/act/Mul_output_0_scale", lambda scale: 1.1 * scale)


CONV = "/model.4/cv1/conv/Conv_output_0"
SILU = "/model.4/cv1/act/Mul_output_0"
TAMPERED = {
    "weight scales": (wider_weights, CONV, SILU),
    "a scale of one channel": (one_wide_channel, CONV, SILU),
    "weight zero points": (shifted_weights, CONV, SILU),
    "activation scale": (wider_activation, SILU, SILU),
}


def tampered(path: Path, folder: Path, by: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(str(path))
    by(model)
    onnx.save(model, str(folder / path.name))
    return folder / path.name


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("kind", TAMPERED)
def test_a_tampered_tensor_is_found_by_name(
    made: Mapping[str, Made], images: Tensor, tmp_path: Path, kind: str, target: str
) -> None:
    """And nothing before it is blamed: all read the simulation's own integers."""
    by, in_onnxruntime, elsewhere = TAMPERED[kind]
    path = tampered(made["plain"].files[target], tmp_path, by)
    rows = made["plain"].compared(target, images[:1], path)
    first = in_onnxruntime if target == "onnxruntime" else elsewhere
    apart = [row.tensor for row in rows if row.worst > 1]
    assert apart[0] == min(rows, key=lambda row: row.sqnr).tensor == first
    assert len(apart) == 1 or kind == "activation scale"  # which its readers see, too


def drop_rounding(tensor: str) -> Callable[[onnx.ModelProto], None]:
    """Whoever read it rounded reads it in float."""

    def drop(model: onnx.ModelProto) -> None:
        nodes = list(model.graph.node)
        (quantize,) = [n for n in nodes if n.op_type == "QuantizeLinear" and n.input[0] == tensor]
        (back,) = [n for n in nodes if quantize.output[0] in n.input]
        for node in nodes:
            for index, name in enumerate(node.input):
                if name == back.output[0]:
                    node.input[index] = tensor
        model.graph.node.remove(quantize)
        model.graph.node.remove(back)

    return drop


@pytest.mark.parametrize("target", DIALECTS)
def test_a_dropped_rounding_is_found_by_name(
    made: Mapping[str, Made], images: Tensor, tmp_path: Path, target: str
) -> None:
    path = tampered(made["plain"].files[target], tmp_path, drop_rounding(SILU))
    with pytest.raises(ExportError, match=rf"{target}\.onnx: '{SILU}' \(1 tensors"):
        made["plain"].compared(target, images[:1], path)


def test_differences_are_counted_in_steps(made: Mapping[str, Made], images: Tensor) -> None:
    """Against integers that are known to be off by 0, 1 and 2."""
    whole, image = made["plain"], images[:1]
    expected = rounded_tensors(whole.simulations["openvino"], image)
    last = [*expected][-1]
    integers, zero_point = expected[last]
    off = integers.astype(int)
    off.flat[0] ^= 1
    off.flat[1] += 2 if off.flat[1] < 99 else -2
    off = off.astype(np.uint8)
    rows = compare_tensors(
        whole.files["openvino"], image.numpy(), expected | {last: (off, zero_point)}
    )
    (row,) = [row for row in rows if row.tensor == last]
    energy = float(((off.astype(float) - zero_point) ** 2).sum())
    assert row.worst == 2
    assert row.moved == pytest.approx(1 / off.size)
    assert row.steps == pytest.approx(3 / off.size)
    assert row.sqnr == pytest.approx(10 * np.log10(energy / 5))


@pytest.mark.parametrize("content", [None, b"\x08\x08\x12"])
def test_a_file_that_cannot_be_run_is_named(
    made: Mapping[str, Made], images: Tensor, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"broken\.onnx: cannot be run tensor by tensor"):
        made["plain"].compared("onnxruntime", images[:1], path)


@pytest.mark.parametrize("target", DIALECTS)
def test_an_export_says_which_tensors_are_worst(
    made: Mapping[str, Made], make_context: Callable[[str], Context], target: str
) -> None:
    whole = made["plain"]
    given = (whole.net, HeadForm(), whole.ranges, target, whole.float_onnx, whole.files[target])
    parity, rows = ParityImages(2, make_context(target)).check_int8(*given)
    found = parity_metrics({"int8-x": parity}, {"int8-x": rows})["tensor_parity"]["int8-x"]
    assert found["tensors"] == len(rows)
    assert found["worst_steps"] == max(row.worst for row in rows) <= 1
    listed = [row["sqnr"] for row in found["worst"]]
    assert listed == sorted(row.sqnr for row in rows)[:8]


@pytest.mark.parametrize("target", DIALECTS)
def test_an_export_of_a_tampered_file_is_refused(
    made: Mapping[str, Made],
    make_context: Callable[[str], Context],
    tmp_path: Path,
    target: str,
) -> None:
    whole = made["plain"]
    path = tampered(whole.files[target], tmp_path, wider_weights)
    images = ParityImages(1, make_context(target))
    with pytest.raises(CompressError, match=rf"{target}\.onnx rounds ./model.4/cv1/.*differently"):
        images.check_int8(whole.net, HeadForm(), whole.ranges, target, whole.float_onnx, path)


def test_a_simulation_of_several_targets_trains(net: nn.Module, images: Tensor) -> None:
    simulation = simulate(net, IMGSZ, [], tuple(DIALECTS))
    calibrate(simulation, [images], "percentile", 99.9)
    model = simulation.model.requires_grad_(True).train()
    predicted = model(images)
    loss = predicted["scores"].square().mean() + predicted["boxes"].square().mean()
    loss.backward()
    moved = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert all(f"{conv}.weight" in moved for conv in simulation.placement.convs)
    scales = [name for name, _ in model.named_parameters() if "quantizers" in name]
    assert sum(name in moved for name in scales) > 0.5 * len(scales) > 50
