"""``key=value`` of the command line, put into the recipe before it is validated.

A key is one of the recipe's own (``imgsz``), one of a stage by the stage's name, or by its kind
where only one stage is of that kind (``finetune.train.epochs``), or by its position, from 0
(``stages.2.train.epochs``).
"""

from __future__ import annotations

from collections.abc import Sequence

from compress.errors import Problem
from compress.recipe.marks import read_value
from compress.recipe.outline import StageOutline, outline
from compress.recipe.schema import Recipe
from compress.recipe.tree import KeyPath, Place, Tree, dotted
from compress.recipe.wording import did_you_mean, shown


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> list[Problem]:
    """Change ``tree`` in order; the last of several for one key wins. Gives what is wrong."""
    problems = []
    for override in overrides:
        place = Place(0, 0, override)
        try:
            _apply(tree, override, place)
        except ValueError as error:
            problems.append(place.problem(str(error)))
    return problems


def _apply(tree: Tree, override: str, place: Place) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ValueError("an override is `key=value`, such as `imgsz=320` or `qat.train.epochs=3`")
    head, rest = _head(tree, parts)
    value = read_value(text)
    path = _open(tree, head, rest, place)
    tree.put(path, value, place)


def _head(tree: Tree, parts: list[str]) -> tuple[KeyPath, list[str]]:
    """Where the key begins in the tree, and what of it is below that."""
    stages = outline(tree)
    first, rest = parts[0], parts[1:]
    if first == "stages" or (not rest and first in Recipe.model_fields):
        return (), parts
    named = [stage for stage in stages if stage.name == first]
    alike = named or [stage for stage in stages if stage.kind == first]
    if len(alike) > 1:
        raise ValueError(f"'{first}' may be {_listed(tree, alike)}; say which")
    if alike and rest:
        return alike[0].path, rest
    if alike:
        raise ValueError(f"'{first}' is a stage; name one of its keys, as in `{first}.KEY=VALUE`")
    raise ValueError(_unknown(tree, stages, parts))


def _open(tree: Tree, head: KeyPath, rest: list[str], place: Place) -> KeyPath:
    """The full path, with a mapping made for each part of it that is not there yet."""
    path = head
    for part in rest[:-1]:
        path = _step(tree, path, part)
        if tree.get(path) is None:
            tree.put(path, {}, place)
    return _step(tree, path, rest[-1])


def _step(tree: Tree, path: KeyPath, part: str) -> KeyPath:
    here = tree.get(path)
    if isinstance(here, dict):
        return (*path, part)
    if not isinstance(here, list):
        raise ValueError(f"{dotted(path)} is {shown(here)}, which has no '{part}'")
    if not (part.isascii() and part.isdigit() and int(part) < len(here)):
        last = f"0 to {len(here) - 1}" if here else "none: it is empty"
        raise ValueError(f"{dotted(path)} has no position '{part}' ({last})")
    return (*path, int(part))


def _listed(tree: Tree, stages: list[StageOutline]) -> str:
    return " or ".join(f"'stages.{stage.index}' ({tree.place(stage.path)})" for stage in stages)


def _unknown(tree: Tree, stages: list[StageOutline], parts: list[str]) -> str:
    names = list(
        dict.fromkeys(name for stage in stages for name in (stage.name, stage.kind) if name)
    )
    first = parts[0]
    if len(parts) > 1 and first in Recipe.model_fields:
        return f"'{first}' has no keys of its own; write {first}=VALUE"
    if len(parts) > 1:
        near = did_you_mean(first, names) or f"; its stages are {', '.join(names) or 'none'}"
        return f"no stage '{first}'{near}"
    deeper = [
        ".".join(map(str, (stage.name, *path[2:])))
        for stage in stages
        for path in tree.keys
        if path[:2] == stage.path and path[-1] == first
    ]
    if deeper:
        return f"no key '{first}' at the top of a recipe; did you mean '{deeper[0]}'?"
    near = did_you_mean(first, [*Recipe.model_fields, *names])
    return f"no key '{first}'{near or '; a recipe has ' + ', '.join(Recipe.model_fields)}"
