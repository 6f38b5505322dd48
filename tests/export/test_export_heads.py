"""Files of every form of head: names up to the head, opsets, dialects, and stock ultralytics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from export_nets import Exported
from slow import slow
from small_nets import IMGSZ, NAMES, settled_net
from torch import Tensor, nn
from ultralytics import YOLO

from compress.models.build import build_model
from compress.models.exportable import export_metadata, exportable, output_names
from compress.models.head_form import HeadForm
from compress.models.inspect import head_outputs
from export.dialects import write_dialect
from export.errors import ExportError
from export.float_onnx import export_float

FORMS = {
    "dense": HeadForm(),
    "sparse": HeadForm(keep=20),
    "raw": HeadForm("raw"),
    "nms": HeadForm("nms", iou=0.5, score=0.4, max_boxes=30),
    "sparse nms": HeadForm("nms", keep=60, iou=0.5, score=0.4, max_boxes=30),
}
ACTIVATIONS = ("SiLU", "Hardswish")


def write(
    net: nn.Module, form: HeadForm, path: Path, opset: int = 17, ir_version: int | None = None
) -> Path:
    metadata = export_metadata(net, IMGSZ, form)
    names = output_names(net, form)
    export_float(exportable(net, form), IMGSZ, path, opset, metadata, names, ir_version)
    return path


def run(path: Path, image: Tensor) -> dict[str, npt.NDArray[np.float32]]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": image.numpy()}), strict=True))


def in_pytorch(net: nn.Module, form: HeadForm, image: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = exportable(net, form)(image)
    return found if isinstance(found, tuple) else (found,)


def before_the_end(path: Path, last: Sequence[str]) -> set[str]:
    """Tensors that the head's last convolutions (modules ``last``) depend on, and their outputs."""
    nodes = onnx.load(str(path)).graph.node
    producers = {tensor: node for node in nodes for tensor in node.output}
    weights = {f"{name}.weight" for name in last}
    left = [n.output[0] for n in nodes if n.op_type == "Conv" and n.input[1] in weights]
    assert len(left) == len(last)
    found: set[str] = set()
    while left:
        tensor = left.pop()
        if tensor in producers and tensor not in found:
            found.add(tensor)
            left.extend(producers[tensor].input)
    return {tensor for tensor in found if not tensor.startswith("onnx::")}  # numbered constants


@pytest.mark.parametrize("name", [name for name in FORMS if name != "dense"])
def test_all_up_to_the_last_convolutions_is_the_dense_graph(
    name: str, exported: Exported, tmp_path: Path
) -> None:
    last = head_outputs(exported.net)
    dense = before_the_end(exported.float_onnx, last)
    other = write(exported.net, FORMS[name], tmp_path / "other.onnx")
    assert before_the_end(other, last) == dense
    assert len(dense) > 150


@pytest.mark.parametrize("name", FORMS)
def test_the_file_computes_what_pytorch_does(
    name: str, exported: Exported, images: Tensor, tmp_path: Path
) -> None:
    path = write(exported.net, FORMS[name], tmp_path / "file.onnx")
    for image in images[:3].split(1):
        expected = in_pytorch(exported.net, FORMS[name], image)
        found = run(path, image)
        for one, other in zip(expected, found.values(), strict=True):
            assert one.shape == other.shape
            assert np.allclose(one.numpy(), other, rtol=1e-4, atol=2e-3)


def test_outputs_of_raw_heads_say_branch_and_stride(exported: Exported, tmp_path: Path) -> None:
    path = write(exported.net, FORMS["raw"], tmp_path / "raw.onnx")
    graph = onnx.load(str(path)).graph
    shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in graph.output}
    assert shapes == {
        f"{branch}_{stride}": [1, channels, IMGSZ // stride, IMGSZ // stride]
        for stride in (8, 16, 32)
        for branch, channels in (("boxes", 64), ("scores", len(NAMES)))
    }


@pytest.fixture(scope="module")
def nets(net_yaml: Path, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Activation -> a net, its exported forms and ranges found at opset 17."""
    from export_nets import export_all

    made = {}
    for activation in ACTIVATIONS:
        folder = tmp_path_factory.mktemp(activation)
        yaml = folder / "net.yaml"
        yaml.write_text(f"activation: nn.{activation}()\n{net_yaml.read_text()}")
        made[activation] = export_all(settled_net(yaml, images), images, folder)
    return made


@pytest.mark.parametrize(
    ("name", "opset", "activation"),
    [
        ("raw", 13, "SiLU"),
        ("sparse nms", 20, "SiLU"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("dense", 13, "Hardswish"),
                ("sparse", 13, "SiLU"),
                ("sparse nms", 13, "Hardswish"),
                ("raw", 20, "Hardswish"),
                ("sparse nms", 18, "SiLU"),
            )
        ),
    ],
)
def test_one_ranges_file_fits_every_opset_and_head(
    name: str, opset: int, activation: str, nets: dict, images: Tensor, tmp_path: Path
) -> None:
    made, form = nets[activation], FORMS[name]
    path = write(made.net, form, tmp_path / "float.onnx", opset)
    assert onnx.load(str(path)).opset_import[0].version == opset
    expected = in_pytorch(made.net, form, images[:1])
    for one, other in zip(expected, run(path, images[:1]).values(), strict=True):
        assert np.allclose(one.numpy(), other, rtol=1e-4, atol=2e-3)
    for target in ("onnxruntime", "tensorrt"):
        int8 = tmp_path / f"{target}.onnx"
        write_dialect(target, path, made.ranges, int8)
        assert onnx.load(str(int8)).opset_import[0].version == opset
        results = run(int8, images[:1])
        assert [r.shape for r in results.values()] == [e.shape for e in expected]
        assert all(np.isfinite(result).all() for result in results.values())


@pytest.mark.parametrize("target", ["onnxruntime", *slow("tensorrt")])
@pytest.mark.parametrize("name", FORMS)
def test_nothing_behind_the_last_convolutions_is_quantized(
    name: str, target: str, exported: Exported, tmp_path: Path
) -> None:
    last = head_outputs(exported.net)
    path = write(exported.net, FORMS[name], tmp_path / "float.onnx")
    write_dialect(target, path, exported.ranges, tmp_path / "int8.onnx")
    allowed = before_the_end(tmp_path / "int8.onnx", last)
    behind = [
        node
        for node in onnx.load(str(tmp_path / "int8.onnx")).graph.node
        if node.output[0] not in allowed and node.op_type != "Constant"
    ]
    assert behind
    assert not [n.name for n in behind if n.op_type in {"QuantizeLinear", "DequantizeLinear"}]


@pytest.mark.parametrize("keep", [None, 84])
def test_stock_ultralytics_reads_suppressed_boxes(
    keep: int | None, exported: Exported, data_yaml: Path, tmp_path: Path
) -> None:
    form = HeadForm("nms", keep=keep, iou=0.5, score=0.4, max_boxes=100)
    path = write(exported.net, form, tmp_path / "nms.onnx")
    options = {"imgsz": IMGSZ, "conf": 0.4, "iou": 0.5, "verbose": False, "device": "cpu"}
    found = 0
    for image in sorted((data_yaml.parent / "images" / "val").iterdir())[:2]:
        dense = YOLO(exported.float_onnx, task="detect").predict(image, **options)[0]
        inside = YOLO(path, task="detect").predict(image, **options)[0]
        assert torch.allclose(inside.boxes.data, dense.boxes.data, rtol=1e-4, atol=5e-3)
        found += len(dense.boxes)
    assert found > 10


def test_stock_ultralytics_reads_kept_cells(
    exported: Exported, data_yaml: Path, tmp_path: Path
) -> None:
    path = write(exported.net, HeadForm(keep=84), tmp_path / "sparse.onnx")
    options = {"imgsz": IMGSZ, "conf": 0.3, "verbose": False, "device": "cpu"}
    image = sorted((data_yaml.parent / "images" / "val").iterdir())[0]
    dense = YOLO(exported.float_onnx, task="detect").predict(image, **options)[0]
    sparse = YOLO(path, task="detect").predict(image, **options)[0]
    assert len(dense.boxes) > 0
    assert torch.allclose(sparse.boxes.data, dense.boxes.data, rtol=1e-4, atol=5e-3)


SLOW_OPSETS = [pytest.param(*pair, marks=pytest.mark.slow) for pair in ((17, 8), (20, 9))]


@pytest.mark.parametrize(("opset", "ir_version"), [(13, 7), *SLOW_OPSETS])
def test_the_ir_version_is_that_of_the_recipe_in_all_dialects(
    opset: int, ir_version: int, exported: Exported, images: Tensor, tmp_path: Path
) -> None:
    path = write(exported.net, HeadForm(), tmp_path / "old.onnx", opset, ir_version)
    for target in ("onnxruntime", "tensorrt"):
        write_dialect(target, path, exported.ranges, tmp_path / f"{target}.onnx")
    for file in sorted(tmp_path.glob("*.onnx")):
        assert onnx.load(str(file)).ir_version == ir_version
        assert np.isfinite(run(file, images[:1])["output0"]).all()


def test_an_ir_version_older_than_the_opset_is_refused(net_yaml: Path, tmp_path: Path) -> None:
    net = build_model(net_yaml, NAMES, 0)
    with pytest.raises(ExportError, match=r"opset 17 .* Lower `opset`.*`ir_version` to 8"):
        write(net, HeadForm(), tmp_path / "new.onnx", 17, 7)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_scales_are_float32_for_old_runtimes(target: str, nets: dict, tmp_path: Path) -> None:
    made = nets["SiLU"]
    path = write(made.net, FORMS["sparse"], tmp_path / "float.onnx", 13, 7)
    write_dialect(target, path, made.ranges, tmp_path / "int8.onnx")
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    pairs = {"QuantizeLinear", "DequantizeLinear"}
    scales = [node.input[1] for node in graph.node if node.op_type in pairs]
    kinds = {t.name: t.data_type for t in graph.initializer}
    assert {kinds[s] for s in scales} == {onnx.TensorProto.FLOAT}
