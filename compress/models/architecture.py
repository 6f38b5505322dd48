"""A stock model from a model yaml that may come from anywhere: nothing in it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn import tasks
from ultralytics.nn.modules.block import TorchVision

from compress.errors import CompressError
from compress.models.quiet import quiet_ultralytics
from compress.models.tasks import TASKS, task_of

_NUMBERS = ("nc", "scales", "scale", "depth_multiple", "width_multiple", "kpt_shape", "end2end")
_KEYS = frozenset({*_NUMBERS, "reg_max", "channels", "backbone", "head", "activation"})
_TORCH_LAYERS = frozenset({"Upsample", "Identity", "ConvTranspose2d", "MaxPool2d", "ZeroPad2d"})
# ultralytics evaluates this text as Python
_ACTIVATION = re.compile(
    r"(torch\.)?nn\.(SiLU|ReLU|ReLU6|LeakyReLU|Hardswish|GELU|Mish|ELU|Identity)\([0-9.]*\)"
)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,29}")
_PROBE_SIZE = 64
_MAX_LAYERS, _MAX_REPEATS, _MAX_NUMBER = 300, 100, 65536


def architecture_of(model: nn.Module) -> dict[str, Any]:
    """What ultralytics builds the model's unpruned form from, without paths, ready for JSON."""
    return {key: _plain(value) for key, value in model.yaml.items() if key in _KEYS}


def build_architecture(
    architecture: Mapping[str, Any], task: str, names: Sequence[str]
) -> nn.Module:
    """Build a stock model, with weights that mean nothing, from what `architecture_of` gives.

    Args:
        architecture: what may come from anywhere.
        task: a task by ultralytics' name.
        names: the classes.

    Raises:
        CompressError: if it is no architecture, or names anything but ultralytics' layers.
    """
    _check(architecture)
    if task not in TASKS:
        raise CompressError(f"model spec: unknown task '{task}'. Known: {', '.join(TASKS)}.")
    try:
        with quiet_ultralytics():
            yaml = deepcopy(dict(architecture))
            model: nn.Module = TASKS[task].model(yaml, ch=yaml.get("channels", 3), verbose=False)
    except Exception as error:  # whatever parse_model trips over is a fault of the spec
        raise CompressError(
            f"model spec: ultralytics cannot build this ({type(error).__name__}: {error}). Use "
            "the file as it was written beside its checkpoint."
        ) from error
    if task_of(model).name != task:
        raise CompressError(
            f"model spec: its last layer is {type(model.model[-1]).__name__}, which does not "
            f"serve the task '{task}'. Use the file as it was written beside its checkpoint."
        )
    if len(names) != model.yaml["nc"]:
        raise CompressError(
            f"model spec: {len(names)} class names, but the architecture has "
            f"{model.yaml['nc']} classes."
        )
    model.names = dict(enumerate(names))
    return model


def probe(model: nn.Module) -> list[Tensor]:
    """All outputs of the model in eval mode for one image, always the same."""
    shape = (1, model.yaml.get("channels", 3), _PROBE_SIZE, _PROBE_SIZE)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return _tensors(model.eval()(image))


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output
    return [tensor for part in parts for tensor in _tensors(part)]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _check(architecture: Mapping[str, Any]) -> None:
    unknown = sorted(set(architecture) - _KEYS)
    if unknown:
        raise _refused(f"unknown key {unknown[0]!r}")
    activation = architecture.get("activation")
    if activation is not None and not _ACTIVATION.fullmatch(str(activation)):
        raise _refused(f"activation {activation!r}")
    rows = [architecture.get(part) for part in ("backbone", "head")]
    if not all(isinstance(part, list) for part in rows):
        raise _refused("`backbone` and `head` must be lists of layers")
    layers = [row for part in rows for row in part or ()]
    if len(layers) > _MAX_LAYERS:
        raise _refused(f"more than {_MAX_LAYERS} layers")
    for row in layers:
        _check_layer(row)
    for key in _KEYS - {"backbone", "head", "activation"}:
        _check_value(architecture.get(key), key)


def _check_layer(row: Any) -> None:
    if not isinstance(row, list) or len(row) != 4 or not isinstance(row[3], list):
        raise _refused(f"layer {row!r} is not [from, repeats, name, arguments]")
    source, repeats, name, arguments = row
    if type(repeats) is not int or not 1 <= repeats <= _MAX_REPEATS:
        raise _refused(f"layer repeated {repeats!r} times")
    if not isinstance(name, str) or not _is_layer(name):
        raise _refused(f"layer {name!r}")
    _check_value(source, "from")
    _check_value(arguments, name)


def _is_layer(name: str) -> bool:
    if name.startswith("nn."):
        return name.removeprefix("nn.") in _TORCH_LAYERS
    layer = getattr(tasks, name, None)
    return (
        isinstance(layer, type)
        and issubclass(layer, nn.Module)
        and layer.__module__.startswith("ultralytics.nn.modules.")
        and layer is not TorchVision  # fetches weights
    )


def _check_value(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_value(key, where)
            _check_value(item, where)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, where)
    elif isinstance(value, str):
        if value and not _WORD.fullmatch(value):
            raise _refused(f"text {value!r} in {where}")
    elif isinstance(value, (int, float)):
        if not abs(value) <= _MAX_NUMBER:  # also catches NaN
            raise _refused(f"number {value!r} in {where}")
    elif value is not None:
        raise _refused(f"{type(value).__name__} in {where}")


def _refused(what: str) -> CompressError:
    return CompressError(
        f"model spec: refused, because its architecture holds what no stock model has: {what}. "
        "Use the file as it was written beside its checkpoint."
    )
