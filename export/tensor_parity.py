"""Whether an INT8 file computes each of its rounded tensors as its simulation does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from export.errors import ExportError
from export.ranges import SYMMETRIC_ZERO

Integers = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TensorParity:
    """One tensor, computed by both sides from the same integers; differences in steps of its grid.

    ``steps``: mean absolute difference; ``worst``: the largest; ``moved``: share of values that are
    more than one step apart, 0 to 1; ``sqnr``: energy of the values over that of the difference,
    in dB (at most 99).
    """

    tensor: str
    steps: float
    worst: int
    moved: float
    sqnr: float


def compare_tensors(
    path: Path, image: npt.NDArray[np.float32], expected: Mapping[str, tuple[Integers, int]]
) -> list[TensorParity]:
    """Compare every rounded tensor of the file in ``path`` with the simulation's.

    The graph is cut at each of them: what is computed there goes out, and what is read there comes
    from the simulation. So differences do not add up from layer to layer: a correct file is off by
    a step at most, where two values lie in the middle between two integers.

    Args:
        path: a Q/DQ file, any dialect; runs in ONNX Runtime.
        image: (1, 3, H, W) in [0, 1].
        expected: tensor -> integers (0..255) and zero point that the simulation gives for it.

    Returns:
        One row a tensor, in the order of the file.

    Raises:
        ExportError: if the file cannot be read or run, or does not round a tensor of ``expected``.
    """
    try:
        model = onnx.load(str(path))
        feeds, made = _cut(model, expected)
        feeds[model.graph.input[0].name] = image
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        results = session.run(list(made.values()), feeds)
    except Exception as error:  # protobuf's and ONNX Runtime's exceptions have no common base
        raise ExportError(f"{path.name}: cannot be run tensor by tensor: {error}") from error
    missing = sorted(expected.keys() - made.keys())
    if missing:
        raise ExportError(
            f"{path.name}: '{missing[0]}' ({len(missing)} tensors in all) is rounded in training, "
            "but not in the file. Export it again; if that does not help, report a fault."
        )
    rows = zip(made, results, strict=True)
    return [_row(tensor, *expected[tensor], result) for tensor, result in rows]


def _cut(
    model: onnx.ModelProto, expected: Mapping[str, tuple[Integers, int]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Open ``model`` behind each QuantizeLinear; gives what to feed, and tensor -> its output."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    feeds: dict[str, Any] = {}
    made: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in expected:
            continue
        tensor, read = node.input[0], node.output[0]
        integers, _ = expected[tensor]
        signed = kinds[node.input[2]] == TensorProto.INT8
        node.output[0] = made[tensor] = f"{read}_made"
        kind = TensorProto.INT8 if signed else TensorProto.UINT8
        for name, values in ((read, model.graph.input), (made[tensor], model.graph.output)):
            values.append(helper.make_tensor_value_info(name, kind, integers.shape))
        feeds[read] = _signed(integers) if signed else integers
    return feeds, made


def _signed(integers: Integers) -> npt.NDArray[np.int8]:
    return (integers.astype(np.int16) - SYMMETRIC_ZERO).astype(np.int8)


def _row(tensor: str, ours: Integers, zero_point: int, theirs: Any) -> TensorParity:
    offset = SYMMETRIC_ZERO if theirs.dtype == np.int8 else 0
    apart = np.abs(ours.astype(np.int32) - (theirs.astype(np.int32) + offset))
    noise = float(np.square(apart).sum())
    energy = float(np.square(ours.astype(np.int32) - zero_point).sum())
    sqnr = 99.0 if noise == 0 else min(99.0, float(10 * np.log10(max(energy, 1e-12) / noise)))
    return TensorParity(
        tensor, float(apart.mean()), int(apart.max()), float((apart > 1).mean()), sqnr
    )
