"""A model for given classes, from weights or from a model yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
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


def require_classes(model: nn.Module, names: Mapping[int, str], what: str) -> None:
    """Refuse a model that does not predict ``names``, showing both lists.

    Raises:
        CompressError: naming ``what`` the model is.
    """
    if not knows_classes(model, dict(names)):
        raise CompressError(
            f"{what} predicts other classes than the data have.\n"
            f"  it predicts: {_short(class_names(model))}\n"
            f"  data: {_short(names)}\n"
            "Train it on these data first: a `train` stage with `when: classes_differ` does."
        )


def _short(names: Mapping[int, str], shown: int = 8) -> str:
    listed = ", ".join(f"{i}: {name}" for i, name in sorted(names.items())[:shown])
    return listed + (f", ... ({len(names)} in all)" if len(names) > shown else "")


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
        model = load_checkpoint(source)
        _require_detector(model, source)
        if knows_classes(model, names):
            return model
        if not _follows_yaml(model):
            return _for_classes(model, names)
        init_seeds(seed + 1, deterministic=False)
        return _as_stock(model, names)


def _from_yaml(source: Path, names: dict[int, str]) -> nn.Module:
    try:
        model = DetectionModel(str(source), nc=len(names), verbose=False)
    except Exception as error:  # whatever parse_model trips over is a fault of the file
        raise CompressError(
            f"{source}: not a detection model that ultralytics can build "
            f"({type(error).__name__}: {error}). Give a model yaml such as yolov8n.yaml."
        ) from error
    _require_detector(model, source)
    model.names = names
    return model


def _require_detector(model: nn.Module, source: Path) -> None:
    try:
        detect_head(model)
    except CompressError as error:
        raise CompressError(f"{source}: {error}") from error


def _follows_yaml(model: nn.Module) -> bool:
    """Whether the model's yaml still tells its widths; a pruned model's does not."""
    twin = DetectionModel(model.yaml, verbose=False).state_dict()
    state = model.state_dict()
    return {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in twin.items()}


def _as_stock(weights: nn.Module, names: dict[int, str]) -> nn.Module:
    """What stock ultralytics makes of pretrained weights for other classes."""
    model = DetectionModel(weights.yaml, nc=len(names), verbose=False)
    model.names = names  # lets the class outputs be matched by name
    model.load(weights, verbose=False)
    return model


def _for_classes(model: nn.Module, names: dict[int, str]) -> nn.Module:
    """``model`` itself with other class outputs: its yaml may no longer tell its widths."""
    head = detect_head(model)
    known = {_plain(name): index for index, name in class_names(model).items()}
    sources = [known.get(_plain(name)) for _, name in sorted(names.items())]
    for branch, stride in zip(head.cv3, head.stride.tolist(), strict=True):
        branch[-1] = _class_outputs(branch[-1], sources, stride)
    head.nc = model.nc = len(names)
    head.no = head.nc + 4 * head.reg_max
    model.names = names
    model.yaml["nc"] = len(names)
    return model


def _plain(name: str) -> str:
    return name.strip().casefold()


def _class_outputs(old: nn.Conv2d, sources: Sequence[int | None], stride: float) -> nn.Conv2d:
    """One output for each of ``sources``: that of ``old``, or one drawn as ultralytics does."""
    new = nn.Conv2d(old.in_channels, len(sources), 1)
    with torch.no_grad():
        new.bias.fill_(math.log(5 / len(sources) / (640 / stride) ** 2))
        for index, source in enumerate(sources):
            if source is not None:
                new.weight[index] = old.weight[source]
                new.bias[index] = old.bias[source]
    return new
