"""A recipe with everything it names found, and the folders it works in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline.contract import Artifact
from compress.pipeline.files import make_writable_folder, storage_faults
from compress.pipeline.links import FromRecipe, link_steps
from compress.pipeline.stage_table import STAGES, StageTable
from compress.recipe.schema import Recipe

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
        named = {name: resolve_model(name, home, download=download) for name in references}
        data = load_dataset(resolve_data(recipe.data, home, cache, download=download))
        return Job(
            recipe=recipe,
            name=loaded.name,
            source=loaded.path.absolute(),
            overrides=tuple(loaded.overrides),
            data=data,
            fingerprint=fingerprint(data, cache / "data" / "fingerprints.json"),
            named=named,
        )
