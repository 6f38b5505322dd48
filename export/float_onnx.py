"""Float ONNX from a PyTorch module, with module names kept in the node names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

from export.errors import ExportError

INPUT_NAME = "images"
OUTPUT_NAME = "output0"  # of the first output; further ones are counted on


def export_float(
    module: nn.Module,
    imgsz: int,
    path: Path,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
    outputs: Sequence[str] = (),
    ir_version: int | None = None,
) -> None:
    """Write ``module`` as ONNX with a fixed input (1, 3, imgsz, imgsz) in [0, 1].

    The module gives one tensor, or a tuple of them, named ``outputs``; without names they are
    ``output0``, ``output1`` and so on. ``ir_version`` is the file format's, for runtimes that
    refuse newer ones.

    Initializers and nodes are named after the modules they come from (``model.2.cv1.conv.weight``,
    ``/model.2/cv1/conv/Conv``), which is how ranges find their way from training into the file.

    Raises:
        ExportError: if PyTorch cannot trace the module, or the opset needs a newer IR version.
    """
    _check_ir_version(ir_version, opset)
    example = torch.zeros(1, 3, imgsz, imgsz)
    module = module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = module(example)  # heads build their anchor grids on the first run
            # the newer exporter renames everything; the mapping of ranges needs module names
            torch.onnx.export(
                module,
                (example,),
                str(path),
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=list(outputs) or _output_names(results),
                dynamo=False,
                # else equal weights would be stored once, under the name of only one module
                keep_initializers_as_inputs=True,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ExportError(f"{path.name}: PyTorch cannot export this model: {error}") from error
    model = onnx.load(str(path))
    del model.graph.input[1:]
    _keep_inner_names(model.graph, outputs)
    _fix_shapes(model.graph, results)
    if ir_version is not None:
        model.ir_version = ir_version
    onnx.helper.set_model_props(model, dict(metadata or {}))
    model.producer_version = ""  # equal weights, equal bytes
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _keep_inner_names(graph: onnx.GraphProto, outputs: Sequence[str]) -> None:
    """Let what computes an output keep the name that it has in the middle of other graphs.

    The exporter calls it like the output, but ranges are kept by tensor names.
    """
    for node in list(graph.node):
        name = node.output[0]
        if name in outputs:
            node.output[0] = f"{node.name}_output_0"
            graph.node.append(onnx.helper.make_node("Identity", [node.output[0]], [name], name))


def _fix_shapes(graph: onnx.GraphProto, results: torch.Tensor | Sequence[torch.Tensor]) -> None:
    """Say the outputs' shapes, which the exporter loses behind a suppression."""
    tensors = [results] if isinstance(results, torch.Tensor) else results
    for output, tensor in zip(graph.output, tensors, strict=True):
        kind = output.type.tensor_type.elem_type
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, kind, tensor.shape))


def _check_ir_version(ir_version: int | None, opset: int) -> None:
    least = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    if ir_version is not None and ir_version < least:
        raise ExportError(
            f"export: opset {opset} came with IR version {least}, so no runtime that reads only "
            f"`ir_version: {ir_version}` knows it. Lower `opset` (13 came with 7, 15 with 8), or "
            f"raise `ir_version` to {least}."
        )


def _output_names(results: object) -> list[str]:
    count = len(results) if isinstance(results, tuple) else 1
    return [OUTPUT_NAME, *(f"output{number}" for number in range(1, count))]
