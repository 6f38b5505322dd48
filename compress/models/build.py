"""A model for given classes, from weights or from a model yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn.modules import Classify
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils.torch_utils import init_seeds

from compress.errors import CompressError
from compress.models.activations import activations_of, set_activations
from compress.models.checkpoint import class_names, foreign_names, load_checkpoint
from compress.models.heads import KeypointShape, task_of_head
from compress.models.legacy import is_legacy, read_legacy, take_over
from compress.models.quiet import quiet_ultralytics
from compress.models.tasks import TASKS, Task, keypoint_shape, task_of


def knows_classes(model: nn.Module, names: dict[int, str]) -> bool:
    """Whether the model predicts exactly these classes, in this order."""
    return class_names(model) == names


def knows_keypoints(model: nn.Module, keypoints: KeypointShape | None) -> bool:
    """Whether the model predicts keypoints of this shape; true where either side has none."""
    own = keypoint_shape(model)
    return own is None or keypoints is None or own == keypoints


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


def build_model(
    source: Path, names: dict[int, str], seed: int, keypoints: KeypointShape | None = None
) -> nn.Module:
    """A model of the source's task that predicts ``names``.

    From a ``.yaml`` (a path, or a name that ultralytics knows): fresh weights drawn from ``seed``.
    From a ``.pt``: its own architecture with its weights; if its classes differ, the class
    outputs are drawn anew, except those of classes with the same name. ``keypoints`` is the
    data's ``kpt_shape``: a pose model with another one gets its keypoint outputs drawn anew.
    From a ``.pt`` of the old YOLOv5 repository: its backbone and neck with ultralytics' head.

    Raises:
        CompressError: if the source is no model of a known task, or is a pruned pose model for
            other keypoints.
    """
    init_seeds(seed + 1, deterministic=False)
    with quiet_ultralytics():
        if source.suffix in {".yaml", ".yml"}:
            return _from_yaml(source, names, keypoints)
        if is_legacy(foreign_names(source)):
            return _from_legacy(source, names)
        model = load_checkpoint(source)
        task = _task_in(model, source)
        fits = knows_keypoints(model, keypoints)
        if knows_classes(model, names) and fits:
            return model
        if _follows_yaml(model, task):
            init_seeds(seed + 1, deterministic=False)
            return _as_stock(model, task, names, keypoints)
        if not fits:
            raise CompressError(
                f"{source}: predicts keypoints {list(keypoint_shape(model) or ())}, the data have "
                f"{list(keypoints or ())}, and a pruned model cannot change them. Train the "
                "unpruned model on these data first."
            )
        return _for_classes(model, names)


def _from_yaml(source: Path, names: dict[int, str], keypoints: KeypointShape | None) -> nn.Module:
    try:
        content = yaml_model_load(source)
        task = TASKS[task_of_head(str(content["head"][-1][2]))]
        model = _new(task, content, names, keypoints)
    except CompressError as error:
        raise CompressError(f"{source}: {error}") from error
    except Exception as error:  # whatever parse_model trips over is a fault of the file
        raise CompressError(
            f"{source}: not a model that ultralytics can build "
            f"({type(error).__name__}: {error}). Give a model yaml such as yolov8n.yaml."
        ) from error
    model.names = names
    return model


def _from_legacy(source: Path, names: dict[int, str]) -> nn.Module:
    net = read_legacy(source)
    model = _from_yaml(Path(f"yolov5{net.scale}.yaml"), names, None)
    take_over(net, model, source)
    return model


def _new(
    task: Task, yaml: dict[str, Any], names: Mapping[int, str], keypoints: KeypointShape | None
) -> nn.Module:
    """A fresh stock model. Its yaml is a copy: ultralytics writes into the one it is given."""
    wanted = {"data_kpt_shape": keypoints} if task.name == "pose" and keypoints else {}
    return task.model(deepcopy(yaml), nc=len(names), verbose=False, **wanted)


def _task_in(model: nn.Module, source: Path) -> Task:
    try:
        return task_of(model)
    except CompressError as error:
        raise CompressError(f"{source}: {error}") from error


def _follows_yaml(model: nn.Module, task: Task) -> bool:
    """Whether the model's yaml still tells its widths; a pruned model's does not."""
    twin = task.model(deepcopy(model.yaml), verbose=False).state_dict()
    state = model.state_dict()
    return {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in twin.items()}


def _as_stock(
    weights: nn.Module, task: Task, names: dict[int, str], keypoints: KeypointShape | None
) -> nn.Module:
    """What stock ultralytics makes of pretrained weights for other classes."""
    model = _new(task, weights.yaml, names, keypoints)
    model.names = names  # lets the class outputs be matched by name
    model.load(weights, verbose=False)
    set_activations(model, activations_of(weights))  # a swapped one does not stand in the yaml
    return model


def _for_classes(model: nn.Module, names: dict[int, str]) -> nn.Module:
    """``model`` itself with other class outputs: its yaml may no longer tell its widths."""
    head = model.model[-1]
    known = {_plain(name): index for index, name in class_names(model).items()}
    sources = [known.get(_plain(name)) for _, name in sorted(names.items())]
    if isinstance(head, Classify):
        head.linear = _class_outputs(head.linear, sources, bias=0.0)
    else:
        _replace_class_convs(head, sources)
        head.nc = model.nc = len(names)
        head.no = head.nc + 4 * head.reg_max
    model.names = names
    model.yaml["nc"] = len(names)
    return model


def _replace_class_convs(head: nn.Module, sources: Sequence[int | None]) -> None:
    """New class outputs in all branches, with ultralytics' own starting bias."""
    for name in ("cv3", "one2one_cv3"):
        branches = getattr(head, name, None)
        if branches is None:
            continue
        for branch, stride in zip(branches, head.stride.tolist(), strict=True):
            bias = math.log(5 / len(sources) / (640 / stride) ** 2)
            branch[-1] = _class_outputs(branch[-1], sources, bias)
    semantic = getattr(getattr(head, "proto", None), "semseg", None)
    if semantic is not None:
        semantic[-1] = _class_outputs(semantic[-1], sources, bias=0.0)


def _plain(name: str) -> str:
    return name.strip().casefold()


def _class_outputs(
    old: nn.Conv2d | nn.Linear, sources: Sequence[int | None], bias: float
) -> nn.Conv2d | nn.Linear:
    """One output for each of ``sources``: that of ``old``, or a new one."""
    count = len(sources)
    new = (
        nn.Linear(old.in_features, count)
        if isinstance(old, nn.Linear)
        else nn.Conv2d(old.in_channels, count, 1)
    )
    with torch.no_grad():
        new.bias.fill_(bias)
        for index, source in enumerate(sources):
            if source is not None:
                new.weight[index] = old.weight[source]
                new.bias[index] = old.bias[source]
    return new
