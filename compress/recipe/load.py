"""From a recipe's file and overrides to a validated recipe, or to all of its faults at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pydantic import ValidationError

from compress.errors import CompressError, Problem, RecipeError
from compress.models.arguments import argument_faults, known_arguments, trainable
from compress.recipe.explain import schema_faults
from compress.recipe.marks import MAX_BYTES, read_tree
from compress.recipe.normalise import normalise
from compress.recipe.order import order_faults
from compress.recipe.outline import outline
from compress.recipe.overrides import apply_overrides
from compress.recipe.schema import Recipe
from compress.recipe.sections import TrainArguments
from compress.recipe.tree import Fault, KeyPath, Place, Tree
from compress.recipe.wording import did_you_mean


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe in full that still knows where each of its parts was written.

    ``name`` is the file's stem, ``overrides`` are those that were applied, as given. ``locate``
    tells the place of a path in ``recipe``, such as ``("stages", 2, "train")``: for a default that
    of the nearest part around it, for an overridden part its override, for a stage that the loader
    put in that of the key it stands for.
    """

    recipe: Recipe
    name: str
    path: Path
    overrides: tuple[str, ...]
    locate: Callable[[KeyPath], Place]

    def error(self, faults: Iterable[Fault]) -> RecipeError:
        """Faults that were found after loading, each with its place."""
        problems = [self.locate(fault.path).problem(fault.message) for fault in faults]
        return RecipeError(str(self.path), problems)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read, override, validate and normalise a recipe. Nothing it names is looked for yet.

    Raises:
        RecipeError: everything that is wrong with the recipe, or with an override.
        CompressError: the file cannot be read.
    """
    tree, problems = read_tree(_content(path))
    if tree is None:
        raise RecipeError(str(path), problems)
    problems += apply_overrides(tree, overrides)
    recipe, faults = _validated(tree)
    told = {(problem.line, problem.column) for problem in problems if problem.line}
    problems += [fault for fault in faults if (fault.line, fault.column) not in told]
    if problems or recipe is None:
        raise RecipeError(str(path), problems)
    full, origins = normalise(recipe)

    def locate(path: KeyPath) -> Place:
        if len(path) > 1 and path[0] == "stages" and isinstance(path[1], int):
            origin = origins[path[1]]
            path = (*origin, *path[2:]) if origin[0] == "stages" else origin
        return tree.place(path)

    return LoadedRecipe(full, path.stem, path, tuple(overrides), locate)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise CompressError(f"{path}: cannot read the recipe: {error.strerror}") from error


def _validated(tree: Tree) -> tuple[Recipe | None, list[Problem]]:
    faults = [*_argument_faults(tree), *order_faults(tree)]
    recipe = None
    try:
        recipe = Recipe.model_validate(tree.value)
    except ValidationError as error:
        faults += schema_faults(error)
    return recipe, tree.problems(faults)


def _argument_faults(tree: Tree) -> list[Fault]:
    known = known_arguments()
    names = trainable(known)
    faults = []
    sections = chain.from_iterable(stage.sections("train") for stage in outline(tree))
    for path, train in sections:
        given = {k: v for k, v in train.items() if k not in TrainArguments.model_fields}
        for fault in argument_faults(given, known):
            near = did_you_mean(fault.key, names) if fault.unknown else ""
            faults.append(Fault((*path, fault.key), f"{fault.message}{near}", fault.at_key))
    return faults
