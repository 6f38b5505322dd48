"""The schema's faults in plain words: what is expected there, and what was given."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from compress.recipe.distillation import Teacher
from compress.recipe.losses import TemperatureSteps
from compress.recipe.schema import Recipe
from compress.recipe.tree import Fault, KeyPath
from compress.recipe.wording import did_you_mean, shown, unknown

_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping (`key: value`)",
    "model_type": "a mapping (`key: value`)",
    "model_attributes_type": "a mapping (`key: value`)",
}
# a value may stand for a mapping with this one key, and is then to blame itself
_SHORT = ((TemperatureSteps, "start"), (Teacher, "model"))
_RANGES = {
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "multiple_of": "a multiple of {multiple_of:g}",
}


def schema_faults(error: ValidationError) -> list[Fault]:
    """One fault for each of pydantic's, at the recipe's own path."""
    return [_fault(details) for details in error.errors(include_url=False)]


def _fault(details: ErrorDetails) -> Fault:
    path, models = _resolve(details["loc"])
    kind, given = details["type"], details["input"]
    context = details.get("ctx", {})
    if kind == "missing":
        return Fault(path, "missing; this key must be given", at_key=True)
    if kind == "extra_forbidden":
        return Fault(path, f"unknown key{unknown(str(path[-1]), _keys(models))}", at_key=True)
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        return _tag_fault(path, models, context)
    if any(models == [model] and path[-1] == key for model, key in _SHORT):
        path = path[:-1]
    return Fault(path, _sentence(kind, given, context, details["msg"]))


def _sentence(kind: str, given: object, context: Mapping[str, Any], message: str) -> str:
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, got {shown(given)}"
    if kind in _RANGES:
        return f"must be {_RANGES[kind].format(**context)}, got {shown(given)}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        near = did_you_mean(given, choices) if isinstance(given, str) else ""
        return f"must be {context['expected']}, got {shown(given)}{near}"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "too_short":
        return "must have at least one entry, got an empty list"
    if kind == "value_error":
        got = "" if isinstance(given, dict | list) else f", got {shown(given)}"
        return f"{context['error']}{got}"
    return f"{message[:1].lower()}{message[1:]}, got {shown(given)}"


def _tag_fault(path: KeyPath, models: list[type[BaseModel]], context: Mapping[str, Any]) -> Fault:
    key = str(context["discriminator"]).strip("'")
    kinds = [kind for model in models for kind in _tags(model, key)]
    if "tag" not in context:
        return Fault((*path, key), f"missing; one of {', '.join(kinds)}", at_key=True)
    tag = str(context["tag"])
    near = did_you_mean(tag, kinds)
    return Fault((*path, key), f"unknown {key} '{tag}'{near} (one of {', '.join(kinds)})")


def _resolve(loc: tuple[int | str, ...]) -> tuple[KeyPath, list[type[BaseModel]]]:
    """The recipe's path of a pydantic location, which also holds the tags of unions.

    With it come the models that hold the path's last key, or, for a union whose tag is to blame,
    all that could stand there.
    """
    path: list[int | str] = []
    here: list[type[BaseModel]] = [Recipe]
    holders = here
    annotation: Any = Recipe
    for element in loc:
        tagged = [model for model in here if element in _all_tags(model)]
        if len(here) > 1 and tagged:
            here = tagged
            continue
        path.append(element)
        holders = here
        annotation = _child(annotation, here, element)
        here = _models(annotation)
    ends_on_union = len(here) > 1
    return tuple(path), here if ends_on_union else holders


def _child(annotation: Any, models: list[type[BaseModel]], element: int | str) -> Any:
    if isinstance(element, int):
        return _item(annotation)
    fields = [model.model_fields[element] for model in models if element in model.model_fields]
    return fields[0].annotation if fields else None


def _item(annotation: Any) -> Any:
    """The type of a list's items, through ``Annotated`` and ``| None``."""
    if get_origin(annotation) is list:
        return get_args(annotation)[0]
    parts = _unwrapped(annotation)
    return next((_item(part) for part in parts if part is not annotation), None)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that may stand where ``annotation`` is: one, or those of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    parts = [part for part in _unwrapped(annotation) if part is not annotation]
    return [model for part in parts for model in _models(part)]


def _unwrapped(annotation: Any) -> tuple[Any, ...]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return get_args(annotation)[:1]
    return get_args(annotation) if origin in (Union, types.UnionType) else (annotation,)


def _tags(model: type[BaseModel], key: str) -> tuple[str, ...]:
    field = model.model_fields.get(key)
    literal = field is not None and get_origin(field.annotation) is Literal
    return get_args(field.annotation) if field is not None and literal else ()


def _all_tags(model: type[BaseModel]) -> set[str]:
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    return {tag for name in required for tag in _tags(model, name)}


def _keys(models: list[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(name for model in models for name in model.model_fields))
