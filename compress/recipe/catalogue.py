"""Find a recipe: a path, or the name of one that comes with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compress.errors import CompressError
from compress.recipe.places import first_file, first_folder
from compress.recipe.wording import did_you_mean

_SUFFIXES = ("", ".yaml", ".yml")


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe of the package; ``summary`` is the first line of its header comment."""

    name: str
    summary: str
    path: Path


def list_recipes() -> list[ShippedRecipe]:
    """The recipes that come with the package, by name."""
    files = sorted(_folder().glob("*.yaml"))
    return [ShippedRecipe(file.stem, _summary(file), file) for file in files]


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe: ``my/recipe.yaml``, ``quickstart`` or ``recipes/quickstart.yaml``.

    A file that is there wins; ``recipes/NAME`` names a shipped one from any folder.

    Raises:
        CompressError: there is no such recipe.
    """
    path = Path(name_or_path).expanduser()
    candidates = [path]
    if path.parent in (Path(), Path("recipes")):
        candidates += [_folder() / f"{path.name}{suffix}" for suffix in _SUFFIXES]
    file = first_file(candidates)
    if file is not None:
        return file
    if first_folder([path]) is not None:
        raise CompressError(f"'{name_or_path}' is a folder; name a recipe's YAML file")
    names = [recipe.name for recipe in list_recipes()]
    near = did_you_mean(path.stem, names)
    raise CompressError(
        f"no recipe '{name_or_path}': there is no such file in {Path.cwd()}{near}. "
        f"Recipes that come with the package: {', '.join(names) or 'none'}"
    )


def _folder() -> Path:
    """``recipes/`` beside this package, in a checkout as in an installed wheel."""
    return Path(__file__).parents[2] / "recipes"


def _summary(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    comments = (line.lstrip("# ").strip() for line in lines if line.startswith("#"))
    return next(filter(None, comments), "")
