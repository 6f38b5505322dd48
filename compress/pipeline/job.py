"""A recipe with everything it names found, and the folders it works in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import CompressError, RecipeError
from compress.pipeline.contract import Artifact
from compress.pipeline.files import is_writable_folder, make_writable_folder, storage_faults
from compress.pipeline.links import FromImages, FromRecipe, Step, link_steps
from compress.pipeline.stage_table import STAGES, StageTable
from compress.recipe.schema import BenchStage, Recipe, distill_of
from compress.recipe.tree import Fault, KeyPath

if TYPE_CHECKING:
    from compress.data.dataset import DataSet
    from compress.recipe import LoadedRecipe

RECORD = "run.json"
FINGERPRINTS = "fingerprints.json"


@dataclass(frozen=True)
class Job:
    """What a run needs from outside: ``named`` maps the recipe's references to their files.

    ``error`` makes one error of faults in the recipe, each with the line that it stands in.
    ``modules`` is a Python file of the user's, whose layers models may have: what opens models
    does so inside ``models.custom_modules.custom_modules`` of it.
    """

    recipe: Recipe
    name: str
    source: Path
    overrides: tuple[str, ...]
    data: DataSet
    fingerprint: str
    named: Mapping[str, Artifact]
    error: Callable[[Iterable[Fault]], RecipeError]
    modules: Artifact | None = None


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


@contextmanager
def read_only(cache: Path) -> Iterator[Path]:
    """Where a command that changes nothing may put what it has to write.

    That is ``cache``, which remembers hashes, if it is there already and can be written; else a
    temporary folder, gone after the block.
    """
    if is_writable_folder(cache):
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        yield Path(folder)


def prepare(
    loaded: LoadedRecipe,
    cache: Path,
    table: StageTable = STAGES,
    download: bool = False,
    trust_modules: bool = False,
) -> Job:
    """Find and hash all that the recipe names. Nothing of it is run.

    Raises:
        RecipeError: all of the weights, model yamls, data, splits and folders of images that cannot
            be found or read, each at the line that names it; and a Python file under ``modules:``
            unless the user has said that it may be run (``trust_modules``).
        CompressError: the cache, which remembers data sets' hashes, cannot be written.
    """
    from compress.data.fingerprint import fingerprint

    make_writable_folder(cache, "--cache")
    faults: list[Fault] = []
    with storage_faults(cache):
        modules = _find_modules(loaded, trust_modules, faults)
        named = _find_models(loaded, table, download, faults)
        named |= _find_images(loaded, table, cache / "data" / FINGERPRINTS, faults)
        data = _find_data(loaded, cache, download, faults)
        if data is None or faults:
            raise loaded.error(faults)
        return Job(
            recipe=loaded.recipe,
            name=loaded.name,
            source=loaded.path.absolute(),
            overrides=tuple(loaded.overrides),
            data=data,
            fingerprint=fingerprint(data, cache / "data" / FINGERPRINTS),
            named=named,
            error=loaded.error,
            modules=modules,
        )


def written_at(recipe: Recipe, reference: str) -> KeyPath:
    """Where the recipe names these weights: at the top, or among the teachers of a stage."""
    for key in ("model", "teacher"):
        if getattr(recipe, key) == reference:
            return (key,)
    for index, stage in enumerate(recipe.stages):
        path, distill = distill_of(stage) or ((), None)
        models = [teacher.model for teacher in distill.teachers] if distill is not None else []
        if reference in models:
            return ("stages", index, *path, "teachers", models.index(reference), "model")
    return ()


def _find_models(
    loaded: LoadedRecipe, table: StageTable, download: bool, faults: list[Fault]
) -> dict[str, Artifact]:
    from compress.recipe.references import resolve_model

    recipe, home = loaded.recipe, loaded.path.parent
    links = [link for step in link_steps(recipe, table) for link in step.links.values()]
    references = dict.fromkeys(link.reference for link in links if isinstance(link, FromRecipe))
    named = {}
    for name in references:
        with _noted(faults, written_at(recipe, name)):
            named[name] = resolve_model(name, home, download=download)
    return named


def _find_images(
    loaded: LoadedRecipe, table: StageTable, memo: Path, faults: list[Fault]
) -> dict[str, Artifact]:
    from compress.recipe.references import resolve_images

    named = {}
    for step in link_steps(loaded.recipe, table):
        link, place = step.links.get("unlabeled"), unlabeled_place(step)
        if isinstance(link, FromImages) and link.reference not in named:
            with _noted(faults, place):
                named[link.reference] = resolve_images(link.reference, loaded.path.parent, memo)
    return named


def unlabeled_place(step: Step) -> KeyPath:
    """Where the recipe names the unlabeled images of ``step``."""
    path, _ = distill_of(step.config) or ((), None)
    return ("stages", step.number - 1, *path, "unlabeled", "images")


def _find_modules(loaded: LoadedRecipe, trusted: bool, faults: list[Fault]) -> Artifact | None:
    from compress.recipe.references import resolve_modules

    if loaded.recipe.modules is None:
        return None
    with _noted(faults, ("modules",)):
        modules = resolve_modules(loaded.recipe.modules, loaded.path.parent)
        if not trusted:
            raise CompressError(
                f"{modules.path} holds layers of your own: its code would be run, with all your "
                "rights. If you know what is in it, allow it with --trust-modules"
            )
        return modules
    return None


def _find_data(
    loaded: LoadedRecipe, cache: Path, download: bool, faults: list[Fault]
) -> DataSet | None:
    from compress.data.dataset import load_dataset
    from compress.recipe.references import resolve_data

    data = None
    with _noted(faults, ("data",)):
        yaml = resolve_data(loaded.recipe.data, loaded.path.parent, cache, download=download)
        data = load_dataset(yaml)
    if data is not None:
        for index, stage in enumerate(loaded.recipe.stages):
            if isinstance(stage, BenchStage):
                _check_splits(stage, ("stages", index, "splits"), data, faults)
    return data


def _check_splits(stage: BenchStage, path: KeyPath, data: DataSet, faults: list[Fault]) -> None:
    """The splits that a bench measures on must be there, and have labels."""
    from compress.data.dataset import require_labels

    for number, split in enumerate(stage.splits):
        with _noted(faults, (*path, number)):
            if split not in data.splits:
                raise CompressError(
                    f"'{stage.name}' measures mAP on the {split} split, but {data.yaml} has none. "
                    f"Give the data yaml a `{split}:`, or take '{split}' out of `splits:`"
                )
            require_labels(data, split)


@contextmanager
def _noted(faults: list[Fault], path: KeyPath) -> Iterator[None]:
    """A file that is not there is a fault of the line that names it."""
    try:
        yield
    except CompressError as error:
        faults.append(Fault(path, str(error)))
