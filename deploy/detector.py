"""A bundle that is ready to run: image in, objects out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy.arrays import Floats, Image
from deploy.decode import candidates_of, in_image, without_overlaps
from deploy.detections import Detections
from deploy.errors import DeployError
from deploy.manifest import Bundle, Postprocessing
from deploy.processing import input_of, read_outputs

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# what a target's graphs are made for, best first; what is not installed is passed over
_PROVIDERS = {
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
    "openvino": ("OpenVINOExecutionProvider",),
}


class Detector:
    """The net of a bundle in ONNX Runtime, with its pre- and post-processing."""

    def __init__(
        self, bundle: Bundle, score: float | None = None, iou: float | None = None
    ) -> None:
        """Load the net.

        Args:
            bundle: as ``read_bundle`` gives it.
            score: least score in place of the bundle's, from 0 up to below 1.
            iou: overlap limit in place of the bundle's, between 0 and 1.

        Raises:
            DeployError: onnxruntime is missing, or the graph cannot be loaded or does not fit the
                manifest.
        """
        self.bundle = bundle
        self._settings = _thresholds(bundle.postprocessing, score, iou)
        self._session = load_model(bundle.model, bundle.target)
        self._input = self._session.get_inputs()[0]
        shape = [1, 3, bundle.preprocessing.height, bundle.preprocessing.width]
        if list(self._input.shape) != shape or self._input.type not in _TYPES:
            raise DeployError(
                f"'{bundle.model}' takes {self._input.type} of shape {self._input.shape}, not a "
                f"float image of shape {shape} as its manifest says. Make the bundle again"
            )

    @property
    def provider(self) -> str:
        """The part of ONNX Runtime that runs the net, such as ``CPUExecutionProvider``."""
        return str(self._session.get_providers()[0])

    def detect(self, image: Image) -> Detections:
        """The objects in ``image`` (H, W, 3), uint8, RGB.

        Raises:
            DeployError: the net fails, or gives other outputs than the manifest says.
        """
        values, place = input_of(image, self.bundle.preprocessing)
        outputs = self._run(values.astype(_TYPES[self._input.type]))
        output, prototypes = read_outputs(outputs, self._settings, str(self.bundle.model))
        found = without_overlaps(candidates_of(output, self._settings), self._settings)
        return in_image(found, prototypes, place, self._settings)

    def _run(self, values: Floats) -> list[Any]:
        try:
            outputs: list[Any] = self._session.run(None, {self._input.name: values})
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise DeployError(f"'{self.bundle.model}' fails in ONNX Runtime: {error}") from error
        return outputs


def load_model(file: Path, target: str) -> Any:
    """An ONNX Runtime session of ``file``, in what is there for ``target``, else on the CPU.

    Raises:
        DeployError: onnxruntime is missing, or cannot load the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DeployError(
            f"onnxruntime cannot be imported ({error}): pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    wanted = _PROVIDERS.get(target, ())
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(
            str(file), options, providers=[*providers, "CPUExecutionProvider"]
        )
    except Exception as error:  # as above
        raise DeployError(
            f"'{file}' cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}. A "
            "newer onnxruntime may read it; else export with an older opset"
        ) from error


def _thresholds(settings: Postprocessing, score: float | None, iou: float | None) -> Postprocessing:
    if score is not None and not 0 <= score < 1:
        raise DeployError(f"the score {score} must be at least 0 and below 1")
    if iou is not None and not 0 < iou < 1:
        raise DeployError(f"the IoU {iou} must be above 0 and below 1")
    return replace(
        settings,
        score=settings.score if score is None else score,
        iou=settings.iou if iou is None else iou,
    )
