"""How far an exported file is from the PyTorch model, on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from export.errors import ExportError

Array = npt.NDArray[np.float32]
CONFIDENT = 0.25
_PIXELS_A_SCORE = 100.0  # a score that is off by 0.01 counts as a pixel


@dataclass(frozen=True)
class Parity:
    """Differences over the cells that either side scores above 0.25 for some class.

    ``score``: mean absolute difference of their scores (0 to 1); ``box``: median difference of
    their box sides in pixels; ``worst_score``: the largest score difference; ``cells``: how many.
    """

    score: float
    worst_score: float
    box: float
    cells: int


def run_onnx(path: Path, images: Sequence[Array]) -> list[Array]:
    """Outputs of the ONNX file for each image (1, 3, H, W), in ONNX Runtime on the CPU.

    Raises:
        ExportError: if ONNX Runtime cannot load or run the file, or it gives NaN.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        outputs = [session.run(None, {name: image})[0] for image in images]
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise ExportError(f"{path.name}: ONNX Runtime cannot run it: {error}") from error
    if not all(np.isfinite(output).all() for output in outputs):
        raise ExportError(
            f"{path.name}: its output is NaN or infinite on a real image. The checkpoint is "
            "broken; train it again with a lower learning rate."
        )
    return outputs


def aligned(expected: Array, actual: Array) -> Array:
    """For each row of ``expected`` the row of ``actual`` that is nearest, by box and score.

    End-to-end outputs are ordered by score, so a rounding moves whole rows; a cell may stand there
    once for each of several classes.

    Args:
        expected: (1, 5, rows): boxes in pixels, and the score.
        actual: the same of the other side.
    """
    scales = np.array([1, 1, 1, 1, _PIXELS_A_SCORE], np.float32)
    ours, theirs = expected[0].T * scales, actual[0].T * scales
    distance = np.abs(ours[:, None] - theirs[None]).sum(2)
    return np.ascontiguousarray(actual[:, :, distance.argmin(1)])


def compare(expected: Sequence[Array], actual: Sequence[Array]) -> Parity:
    """Compare decoded outputs (1, 4 + classes, cells) image by image."""
    scores: list[Array] = []
    boxes: list[Array] = []
    for one, other in zip(expected, actual, strict=True):
        confident = np.maximum(one[0, 4:].max(0), other[0, 4:].max(0)) > CONFIDENT
        scores.append(np.abs(one[0, 4:] - other[0, 4:])[:, confident].ravel())
        boxes.append(np.abs(one[0, :4] - other[0, :4])[:, confident].ravel())
    all_scores, all_boxes = np.concatenate(scores), np.concatenate(boxes)
    if not len(all_boxes):
        return Parity(0.0, 0.0, 0.0, 0)
    return Parity(
        float(all_scores.mean()),
        float(all_scores.max()),
        float(np.median(all_boxes)),
        len(all_boxes) // 4,
    )
