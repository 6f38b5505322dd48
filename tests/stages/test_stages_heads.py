"""The export stage's heads: every file but the base's, float and INT8, compared cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from slow import slow
from small_nets import settled_net
from stage_chain import artifact, run_stage
from torch import Tensor, nn

from compress.data.dataset import DataSet
from compress.errors import CompressError
from compress.models.checkpoint import save_checkpoint
from compress.models.evaluate import evaluate
from compress.models.file_outputs import decoded_by_file
from compress.models.head_form import HeadForm, kind_of_file
from compress.pipeline.contract import Artifact

FORMS: dict[str, dict[str, Any]] = {
    "sparse": {"keep": 40, "pad_outputs": 48},
    "raw": {"head": "raw", "opset": 13, "ir_version": 7},
    "nms": {"head": "nms", "keep": 60, "nms": {"score": 0.3, "max_boxes": 25}},
}
TARGETS = ("onnxruntime", "tensorrt")


@pytest.fixture(scope="module")
def calm(net_yaml: Path, images: Tensor) -> nn.Module:
    """A net far from chaotic: INT8 stays close."""
    model = settled_net(net_yaml, images)
    for branch in [*model.model[-1].cv2, *model.model[-1].cv3]:
        branch[-1].weight.data *= 0.05
    return model


@pytest.fixture(scope="module")
def inputs(
    calm: nn.Module, dataset: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("ptq")
    save_checkpoint(calm, folder / "net.pt")
    net = artifact(folder / "net.pt")
    ptq = {"stage": "ptq", "calibration": {"images": 8}, "target": list(TARGETS)}
    ranges = run_stage(ptq, {"checkpoint": net}, dataset, folder / "ran").artifact("ranges")
    return {"checkpoint.base": net, "checkpoint.ptq": net, "ranges": ranges}


def outputs(path: Path) -> dict[str, list[int]]:
    graph = onnx.load(str(path)).graph
    return {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in graph.output}


@pytest.mark.parametrize("name", [*slow("sparse", "raw"), "nms"])
def test_all_but_the_base_end_as_the_recipe_says(
    name: str, inputs: dict[str, Artifact], dataset: DataSet, tmp_path: Path
) -> None:
    config = {"stage": "export", "parity_images": 1, "targets": list(TARGETS), **FORMS[name]}
    ran = run_stage(config, inputs, dataset, tmp_path / "export")
    assert ran.files.keys() == {"base", "ptq", *(f"int8-{target}" for target in TARGETS)}
    assert outputs(ran.files["base"]) == {"output0": [1, 7, 84]}
    shape = {"sparse": [1, 7, 40], "nms": [1, 25, 6]}.get(name)
    for file in set(ran.files) - {"base"}:
        found = outputs(ran.files[file])
        assert "boxes_8" in found if shape is None else found == {"output0": shape}
        assert kind_of_file(ran.files[file]) == FORMS[name].get("head", "decoded")
    for file, parity in ran.metrics["parity"].items():
        assert parity["cells"] > 40
        assert parity["score"] < (0.02 if file.startswith("int8") else 1e-4)
    if name == "nms":
        accuracy = evaluate(ran.files["int8-onnxruntime"], dataset.yaml, 64)
        assert 0 <= accuracy.map50_95 <= 1


def test_an_end_that_computes_something_else_is_found(
    calm: nn.Module, inputs: dict[str, Artifact], images: Tensor, dataset: DataSet, tmp_path: Path
) -> None:
    config = {"stage": "export", "parity_images": 1, "keep": 10}
    ran = run_stage(config, inputs, dataset, tmp_path / "export")
    path = ran.files["ptq"]
    for form in (HeadForm(keep=11), HeadForm("nms")):  # not what the file has
        with pytest.raises(CompressError, match=r"the end of ptq\.onnx \(output 0\)"):
            decoded_by_file(calm, form, path, path, [images[:1]])
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name == "model.22.dfl.sums":
            sums = torch.tensor(onnx.numpy_helper.to_array(tensor)) * torch.tensor([[1.1], [1.0]])
            tensor.CopyFrom(onnx.numpy_helper.from_array(sums.numpy(), tensor.name))
    onnx.save(model, str(path))
    with pytest.raises(CompressError, match=r"the end of ptq\.onnx \(output 0\)"):
        decoded_by_file(calm, HeadForm(keep=10), path, path, [images[:1]])
