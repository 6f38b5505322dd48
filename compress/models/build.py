"""A model for given classes, from weights or from a model yaml."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import init_seeds

from compress.errors import CompressError
from compress.models.checkpoint import class_names, load_checkpoint
from compress.models.inspect import detect_head
from compress.models.quiet import quiet_ultralytics


def knows_classes(model: nn.Module, names: dict[int, str]) -> bool:
    """Whether the model predicts exactly these classes, in this order."""
    return class_names(model) == names


def build_model(source: Path, names: dict[int, str], seed: int) -> nn.Module:
    """A detection model that predicts ``names``.

    From a ``.yaml`` (a path, or a name that ultralytics knows): fresh weights drawn from ``seed``.
    From a ``.pt``: its own architecture with its weights; if its classes differ, the class
    outputs are drawn anew, except those of classes with the same name.

    Raises:
        CompressError: if the source is no detection model.
    """
    init_seeds(seed + 1, deterministic=False)
    with quiet_ultralytics():
        if source.suffix in {".yaml", ".yml"}:
            return _from_yaml(source, names)
        weights = load_checkpoint(source)
        detect_head(weights)
        if knows_classes(weights, names):
            return weights
        model = DetectionModel(weights.yaml, nc=len(names), verbose=False)
        model.names = names  # lets the class outputs be matched by name
        model.load(weights, verbose=False)
        return model


def _from_yaml(source: Path, names: dict[int, str]) -> nn.Module:
    try:
        model = DetectionModel(str(source), nc=len(names), verbose=False)
    except Exception as error:  # whatever parse_model trips over is a fault of the file
        raise CompressError(
            f"{source}: not a detection model that ultralytics can build "
            f"({type(error).__name__}: {error}). Give a model yaml such as yolov8n.yaml."
        ) from error
    detect_head(model)
    model.names = names
    return model
