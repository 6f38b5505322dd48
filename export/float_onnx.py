"""Float ONNX from a PyTorch module, with module names kept in the node names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
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
) -> None:
    """Write ``module`` as ONNX with a fixed input (1, 3, imgsz, imgsz) in [0, 1].

    The module gives one tensor, or a tuple of them: outputs ``output0``, ``output1`` and so on.

    Initializers and nodes are named after the modules they come from (``model.2.cv1.conv.weight``,
    ``/model.2/cv1/conv/Conv``), which is how ranges find their way from training into the file.

    Raises:
        ExportError: if PyTorch cannot trace the module.
    """
    example = torch.zeros(1, 3, imgsz, imgsz)
    module = module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = module(example)  # heads build their anchor grids on the first run
            # the newer exporter renames everything; the mapping of ranges needs module names
            torch.onnx.export(
                module,
                (example,),
                str(path),
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=_output_names(outputs),
                dynamo=False,
                # else equal weights would be stored once, under the name of only one module
                keep_initializers_as_inputs=True,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ExportError(f"{path.name}: PyTorch cannot export this model: {error}") from error
    model = onnx.load(str(path))
    del model.graph.input[1:]
    onnx.helper.set_model_props(model, dict(metadata or {}))
    model.producer_version = ""  # equal weights, equal bytes
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _output_names(outputs: object) -> list[str]:
    count = len(outputs) if isinstance(outputs, tuple) else 1
    return [OUTPUT_NAME, *(f"output{number}" for number in range(1, count))]
