"""A recipe with everything it names found, and the folders it works in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import CompressError, RecipeError
from compress.pipeline.contract import Artifact
from compress.pipeline.files import make_writable_folder, storage_faults
from compress.pipeline.links import FromRecipe, link_steps
from compress.pipeline.stage_table import STAGES, StageTable
from compress.recipe.schema import Recipe
from compress.recipe.tree import KeyPath

if TYPE_CHECKING:
    from compress.data.dataset import DataSet
    from compress.recipe import LoadedRecipe

RECORD = "run.json"


@dataclass(frozen=True)
class Job:
    """What a run needs from outside: ``named`` maps the recipe's references to their files."""

    recipe: Recipe
    name: str
    source: Path
    overrides: tuple[str, ...]
    data: DataSet
    fingerprint: str
    named: Mapping[str, Artifact]


@dataclass(frozen=True)
class Place:
    """Where results go: ``run`` is one recipe's folder, ``cache`` is shared by all runs."""

    run: Path
    cache: Path

    @classmethod
    def of(cls, name: str, out: Path | None = None, cache: Path | None = None) -> Place:
        """``runs/<name>`` and ``.cache`` beside it, unless told otherwise; made absolute."""
        run = (out or Path("runs") / name).absolute()
        return cls(run, (cache or run.parent / ".cache").absolute())


def prepare(
    loaded: LoadedRecipe, cache: Path, table: StageTable = STAGES, download: bool = False
) -> Job:
    """Find and hash all that the recipe names.

    Raises:
        CompressError: weights, a model yaml or data cannot be found or read, or the cache,
            which remembers data sets' hashes, cannot be written.
    """
    from compress.data.dataset import load_dataset
    from compress.data.fingerprint import fingerprint
    from compress.recipe.references import resolve_data, resolve_model

    make_writable_folder(cache, "--cache")
    recipe, home = loaded.recipe, loaded.path.parent
    links = [link for step in link_steps(recipe, table) for link in step.links.values()]
    references = dict.fromkeys(link.reference for link in links if isinstance(link, FromRecipe))
    with storage_faults(cache):
        named = {}
        for name in references:
            with _placed(loaded, _written_at(recipe, name)):
                named[name] = resolve_model(name, home, download=download)
        with _placed(loaded, ("data",)):
            yaml = resolve_data(recipe.data, home, cache, download=download)
        data = load_dataset(yaml)
        return Job(
            recipe=recipe,
            name=loaded.name,
            source=loaded.path.absolute(),
            overrides=tuple(loaded.overrides),
            data=data,
            fingerprint=fingerprint(data, cache / "data" / "fingerprints.json"),
            named=named,
        )


def _written_at(recipe: Recipe, reference: str) -> KeyPath:
    """Where the recipe names these weights: at the top, or among the teachers of a stage."""
    for key in ("model", "teacher"):
        if getattr(recipe, key) == reference:
            return (key,)
    for index, stage in enumerate(recipe.stages):
        distill = getattr(stage, "distill", None)
        if distill is not None and reference in distill.teachers:
            return ("stages", index, "distill", "teachers", distill.teachers.index(reference))
    return ()


@contextmanager
def _placed(loaded: LoadedRecipe, path: KeyPath) -> Iterator[None]:
    """A file that is not there is a fault of the line that names it."""
    try:
        yield
    except RecipeError:
        raise
    except CompressError as error:
        raise loaded.error(path, str(error)) from error
