"""A pruned model's architecture as plain JSON: what to build so that its weights fit.

No pickle is read or written, so a spec from anywhere can be looked into and rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from compress.errors import CompressError
from compress.models.activations import activations_of, set_activations
from compress.models.architecture import architecture_of, build_architecture, probe
from compress.models.blocks.attributes import block_numbers, set_block_numbers, settle
from compress.models.channels import LAYERS, channel_count, set_channels
from compress.models.checkpoint import class_names
from compress.models.tasks import task_of

_Count = Annotated[int, Field(ge=1, le=65536)]


class ModelSpec(BaseModel):
    """The file's content.

    ``architecture`` is the unpruned model as ultralytics' yaml. ``layers``: name -> [inputs,
    outputs] of every layer that differs from it. ``blocks``: numbers that follow from no width,
    such as the scale of an attention. ``activations``: block -> what it has in place of the yaml's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    version: Literal[1] = 1
    task: str
    names: list[str] = Field(min_length=1)
    architecture: dict[str, Any]
    layers: dict[str, Annotated[list[_Count], Field(min_length=2, max_length=2)]]
    blocks: dict[str, dict[str, float | list[_Count]]]
    activations: dict[str, Literal["silu", "relu", "relu6", "hardswish"]] = {}


def spec_of(model: nn.Module) -> dict[str, Any]:
    """Describe ``model``, pruned or not, as values that JSON can hold.

    Raises:
        CompressError: if a model built from the description would not compute the same.
    """
    task = task_of(model).name
    architecture = architecture_of(model)
    names = [name for _, name in sorted(class_names(model).items())]
    whole = build_architecture(architecture, task, names)
    spec = ModelSpec.model_validate(
        {
            "task": task,
            "names": names,
            "architecture": architecture,
            "layers": _changed(_shapes(whole), _shapes(model)),
            "blocks": block_numbers(model),
            "activations": _changed(activations_of(whole), activations_of(model)),
        }
    ).model_dump()
    _require_same(build_from_spec(spec), model)
    return spec


def build_from_spec(spec: Mapping[str, Any]) -> nn.Module:
    """A model of stock classes into which the described model's ``state_dict`` fits.

    Its weights mean nothing before that. ``spec`` may come from anywhere: it is checked.

    Raises:
        CompressError: if it is no spec, or describes no model that runs.
    """
    try:
        checked = ModelSpec.model_validate(dict(spec))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CompressError(f"model spec: `{where}`: {first['msg']}.") from error
    model = build_architecture(checked.architecture, checked.task, checked.names)
    layers = dict(model.named_modules())
    for name, (inputs, outputs) in checked.layers.items():
        if not isinstance(layers.get(name), LAYERS):
            raise CompressError(f"model spec: the architecture has no layer '{name}'.")
        set_channels(layers[name], inputs, outputs)
    settle(model, {})
    set_block_numbers(model, checked.blocks)
    try:
        set_activations(model, checked.activations)
    except CompressError as error:
        raise CompressError(f"model spec: {error}.") from error
    _require_running(model)
    return model.eval()


def _changed(whole: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in own.items() if whole.get(name) != value}


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    return {
        name: [channel_count(layer, "in"), channel_count(layer, "out")]
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS)
    }


def _require_running(model: nn.Module) -> None:
    try:
        probe(model)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise CompressError(
            f"model spec: the layers do not fit together ({error}). Use the file as it was "
            "written beside its checkpoint."
        ) from error


def _require_same(rebuilt: nn.Module, model: nn.Module) -> None:
    copy = deepcopy(model).float().cpu()
    try:
        rebuilt.load_state_dict(copy.state_dict())
    except RuntimeError as error:
        raise _indescribable(str(error)) from error
    pairs = zip(probe(rebuilt), probe(copy), strict=True)
    if not all(torch.equal(ours, theirs) for ours, theirs in pairs):
        raise _indescribable("its blocks compute something else")


def _indescribable(reason: str) -> CompressError:
    return CompressError(
        "model spec: what this version of ultralytics builds from the model's yaml is not the "
        f"model: {reason}. Its checkpoint still holds it."
    )
