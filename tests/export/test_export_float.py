"""The float file: same numbers as PyTorch, same bytes each time, and stock ultralytics reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_nets import Exported
from onnx import numpy_helper
from small_nets import IMGSZ, NAMES, output_of
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn.modules import DFL

from compress.models.build import build_model
from compress.models.checkpoint import save_checkpoint
from compress.models.exportable import ExpectedDistance, exportable
from export.errors import ExportError
from export.float_onnx import INPUT_NAME, OUTPUT_NAME, export_float
from export.parity import run_onnx


@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 80.0, 500.0])
@pytest.mark.parametrize("bins", [16, 8])
def test_expected_distance_is_dfl(spread: float, bins: int) -> None:
    torch.manual_seed(0)
    logits = (torch.rand(2, 4 * bins, 50) * 2 - 1) * spread
    logits[:, ::2] = logits[:, ::2].sign() * spread
    expected = DFL(bins)(logits)
    actual = ExpectedDistance(bins)(logits)
    assert actual.shape == expected.shape == (2, 4, 50)
    assert torch.isfinite(actual).all()
    assert float((actual - expected).abs().max()) < 1e-4


def test_the_export_view_decodes_as_the_model_does(net: nn.Module, images: Tensor) -> None:
    before = output_of(net, images[:1])
    view = exportable(net)
    with torch.no_grad():
        decoded = view(images[:1])
    assert decoded.shape == before.shape == (1, 4 + len(NAMES), 84)
    assert torch.allclose(decoded, before, atol=1e-3)
    assert torch.equal(output_of(net, images[:1]), before)  # the model itself is left alone


def test_names_of_modules_are_kept(exported: Exported) -> None:
    graph = onnx.load(str(exported.float_onnx)).graph
    assert [i.name for i in graph.input] == [INPUT_NAME]
    assert [o.name for o in graph.output] == [OUTPUT_NAME]
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 3, IMGSZ, IMGSZ]
    modules = {name for name, _ in exported.net.named_modules()}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    assert {conv.input[1].removesuffix(".weight") for conv in convs} <= modules
    assert not [node for node in graph.node if node.op_type == "Identity"]


def test_equal_weights_keep_a_name_each(net_yaml: Path, tmp_path: Path) -> None:
    """A fresh net's biases are all zero; PyTorch would store them once, under one layer's name."""
    net = build_model(net_yaml, NAMES, 0)
    export_float(exportable(net), IMGSZ, tmp_path / "fresh.onnx")
    graph = onnx.load(str(tmp_path / "fresh.onnx")).graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convs) == 59
    for conv in convs:
        module = net.get_submodule(conv.input[1].removesuffix(".weight"))
        assert stored[conv.input[1]].shape == tuple(module.weight.shape)
        assert conv.input[2] == conv.input[1].replace(".weight", ".bias")
        assert conv.input[2] in stored


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real if x.sum() == 0 else torch.linalg.svdvals(x)


def test_what_pytorch_cannot_export_is_said_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"odd\.onnx: PyTorch cannot export this model"):
        export_float(Unexportable(), IMGSZ, tmp_path / "odd.onnx")


@pytest.mark.parametrize("dialect", ["float_onnx", "onnxruntime"])
def test_stock_ultralytics_predicts_with_the_file(
    exported: Exported, data_yaml: Path, tmp_path: Path, dialect: str
) -> None:
    save_checkpoint(exported.net, tmp_path / "net.pt")
    image = sorted((data_yaml.parent / "images" / "val").iterdir())[0]  # square
    options = {"imgsz": IMGSZ, "conf": 0.3, "verbose": False, "save": False, "device": "cpu"}
    plain = YOLO(tmp_path / "net.pt").predict(image, **options)[0]
    found = YOLO(getattr(exported, dialect), task="detect").predict(image, **options)[0]
    assert found.names == NAMES
    assert len(found.boxes) > 0
    if dialect == "float_onnx":
        assert torch.allclose(found.boxes.data, plain.boxes.data, atol=0.05)


def test_metadata_tells_classes_stride_and_size(exported: Exported) -> None:
    model = onnx.load(str(exported.float_onnx))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["task"] == "detect"
    assert metadata["stride"] == "32"
    assert metadata["imgsz"] == str([IMGSZ, IMGSZ])
    assert metadata["names"] == str(NAMES)


_EXPORT = """\
import hashlib, sys
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[3])
from export_nets import export_all
from small_nets import settled_net

images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
folder = Path(sys.argv[1])
exported = export_all(settled_net(Path(sys.argv[2]), images), images, folder)
exported.ranges.save(folder / "ranges.json")
for path in sorted(folder.iterdir()):
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
"""


@pytest.mark.slow
def test_equal_weights_give_equal_bytes_in_another_process(net_yaml: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    started = []
    for seed in ("1", "2"):
        folder = tmp_path / f"folder-{seed}"
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(here.parent)}
        command = [sys.executable, "-c", _EXPORT, str(folder), str(net_yaml), str(here)]
        root, pipe = here.parent.parent, subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, text=True, env=environment, cwd=root))
    printed = [process.communicate(timeout=120)[0].splitlines() for process in started]
    assert printed[0] == printed[1]
    assert len(printed[0]) == 5  # float, three dialects, ranges


def test_float_file_and_model_agree_on_noise(exported: Exported) -> None:
    random = np.random.default_rng(0)
    noise = [random.random((1, 3, IMGSZ, IMGSZ), np.float32) for _ in range(3)]
    for image, actual in zip(noise, run_onnx(exported.float_onnx, noise), strict=True):
        expected = output_of(exported.net, torch.from_numpy(image)).numpy()
        assert np.abs(actual - expected).max() < 0.1  # pixels
        assert np.abs(actual - expected)[:, 4:].max() < 1e-3
