"""Run a file and look at tensors in the middle of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from export.errors import ExportError
from export.graph_view import GraphView

Array = npt.NDArray[np.float32]


def conv_outputs(path: Path) -> dict[str, str]:
    """Module of each convolution of a float file -> the tensor that it gives."""
    view = GraphView(onnx.load(str(path)))
    return {conv: node.output[0] for node in view.nodes if (conv := view.conv(node)) is not None}


def run_inside(
    path: Path, tensors: Sequence[str], images: Sequence[Array]
) -> list[tuple[list[Array], list[Array]]]:
    """The file's outputs, and ``tensors`` as their readers see them, for each image (1, 3, H, W).

    Of a rounded tensor that is the rounded value.

    Raises:
        ExportError: if ONNX Runtime cannot load or run the file, or it gives NaN.
    """
    model = onnx.load(str(path))
    made = {name for node in model.graph.node for name in node.output}
    rounded = {name: f"{name}_quantized_dequantized" for name in tensors}
    seen = [rounded[name] if rounded[name] in made else name for name in tensors]
    outputs = [output.name for output in model.graph.output]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in seen)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feed = session.get_inputs()[0].name
        found = [session.run([*outputs, *seen], {feed: image}) for image in images]
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise ExportError(f"{path.name}: ONNX Runtime cannot run it: {error}") from error
    if not all(np.isfinite(result).all() for results in found for result in results):
        raise ExportError(
            f"{path.name}: it computes NaN or infinity on a real image. The checkpoint is broken; "
            "train it again with a lower learning rate."
        )
    return [(results[: len(outputs)], results[len(outputs) :]) for results in found]
