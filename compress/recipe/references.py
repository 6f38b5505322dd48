"""Find the files that a recipe names: weights, model yamls, data yamls, images, layers."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from compress.data.dataset import list_images
from compress.data.images import can_check_images, image_fault
from compress.data.memo import look_up
from compress.errors import CompressError
from compress.models.shipped import data_yamls, datasets_folder, model_yamls, without_scale
from compress.pipeline.contract import Artifact
from compress.pipeline.files import sha256_of
from compress.recipe.data_root import with_absolute_lists, with_images, with_root
from compress.recipe.places import first_file, first_folder, is_bare, missing, places, read_yaml
from compress.recipe.wording import did_you_mean

SAMPLE = "sample"
_YAML = (".yaml", ".yml")
# detectors that ultralytics has released, told without importing it
_RELEASED = re.compile(
    r"(yolov8[nsmlx](-oiv7)?|yolo(11|12|26)[nsmlx]|yolov5[nsmlx]6?u|yolov3(-spp|-tiny)?u"
    r"|yolov9[tsmce]|yolov10[nsmblx])\.pt"
)
_GIVE_MODEL = (
    "copy the file to one of these places, or give its path: `model=PATH`, for a teacher "
    "`teacher=PATH`"
)
_GIVE_IMAGES = "copy them there, or name a folder of images, or a .txt that lists them"
_GIVE_MODULES = "copy it there, or give its path: `modules=PATH`"
_GIVE_DATA = "copy them there, or name your own data yaml: `data=PATH`"


def resolve_model(ref: str, recipe_folder: Path, download: bool = False) -> Artifact:
    """The file of a ``model``, ``teacher`` or teacher reference: weights or a model yaml.

    A relative path counts from the current folder, then from the recipe's. A model yaml that only
    ultralytics has (``yolov8n.yaml``) keeps its bare name as path; the hash of a yaml also covers
    its name, since a letter in it picks the scale.

    Raises:
        CompressError: there is no such file; ``download`` fetches weights that are released.
    """
    suffix = Path(ref).suffix
    if suffix in _YAML:
        return _model_yaml(ref, places(ref, recipe_folder))
    if suffix != ".pt":
        near = (
            f"; did you mean '{ref}.pt'?" if first_file(places(f"{ref}.pt", recipe_folder)) else ""
        )
        raise CompressError(f"'{ref}' is neither weights (.pt) nor a model yaml (.yaml){near}")
    file = first_file(places(ref, recipe_folder))
    if file is None and download and is_bare(ref):
        from compress.models.download import fetch_weights

        file = fetch_weights(ref, Path.cwd())
    if file is None:
        fetch = "; --download fetches these weights" if _RELEASED.fullmatch(ref) else ""
        what = f"the weights '{ref}' are not there"
        raise missing(what, places(ref, recipe_folder), _GIVE_MODEL + fetch)
    try:
        return Artifact(file, sha256_of(file))
    except OSError as error:
        raise CompressError(f"{file}: cannot be read: {error.strerror}") from error


def resolve_data(ref: str, recipe_folder: Path, cache: Path, download: bool = False) -> Path:
    """The data yaml of a ``data`` reference: ``sample``, a path, or one that ultralytics ships.

    A relative path counts from the current folder, then from the recipe's. A relative ``path:``
    in the yaml counts from the yaml, the current folder, the recipe and ultralytics' data sets
    folder; then the result is a copy in ``cache`` with the folder that holds the images.

    Raises:
        CompressError: there is no such yaml or it has no images; ``download`` fetches the images
            of one that ultralytics ships. No script of a yaml of the user's is ever run.
    """
    if ref == SAMPLE:
        from compress.data.sample import draw_sample

        return draw_sample(cache / "data" / SAMPLE)
    looked = places(ref, recipe_folder)
    bases = [Path.cwd(), recipe_folder, datasets_folder()]
    own = first_file(looked)
    if own is not None:
        return with_absolute_lists(with_images(own, [own.parent, *bases], cache, _GIVE_DATA), cache)
    shipped = data_yamls()
    if ref not in shipped:
        raise _no_data_yaml(ref, looked, shipped)
    text, values = read_yaml(shipped[ref])
    fetchable = bool(values.get("download"))
    try:
        fetch = "; --download lets ultralytics fetch them" if fetchable else ""
        found = with_images(shipped[ref], bases, cache, _GIVE_DATA + fetch)
        return with_absolute_lists(found, cache)
    except CompressError:
        if not (download and fetchable):
            raise
    from compress.models.download import fetch_dataset

    return with_root(shipped[ref], text, fetch_dataset(shipped[ref]), cache)


def resolve_images(ref: str, recipe_folder: Path, memo: Path) -> Artifact:
    """Images without labels: a folder with all below it, or a ``.txt`` with an image on each line.

    A relative path counts from the current folder, then from the recipe's. The hash is over names
    and contents; ``memo`` keeps the hash of each image, as for the data set.

    Raises:
        CompressError: there is no such folder or list, or no image of it can be read.
    """
    looked = places(ref, recipe_folder)
    listing = first_file(looked) if ref.lower().endswith(".txt") else None
    place = listing or first_folder(looked)
    if place is None:
        raise missing(f"the unlabeled images '{ref}' are not there", looked, _GIVE_IMAGES)
    digests = hash_images(list_images(place), memo)
    if not digests:
        raise CompressError(f"no image in {place}: {_GIVE_IMAGES}")
    if can_check_images() and all(image_fault(image) for image in digests):
        first = next(iter(digests))
        raise CompressError(
            f"none of the {len(digests)} images in {place} can be read, such as {first}: "
            f"{image_fault(first)}. Replace them"
        )
    root = os.path.commonpath([image.parent for image in digests]) if listing else place
    rows = sorted((os.path.relpath(image, root), digest) for image, digest in digests.items())
    return Artifact(place, hashlib.sha256(json.dumps(rows).encode()).hexdigest())


def hash_images(images: Iterable[Path], memo: Path) -> dict[Path, str]:
    """SHA-256 of each image that is there, looked up in ``memo`` where that knows it."""
    found = look_up(images, memo, sha256_of)
    return {image: digest for image, digest in found.items() if digest is not None}


def resolve_modules(ref: str, recipe_folder: Path) -> Artifact:
    """The Python file of a ``modules`` reference. It is not run.

    A relative path counts from the recipe's folder, then from the current one: code comes from
    where the recipe does.

    Raises:
        CompressError: there is no such file.
    """
    looked = places(ref, recipe_folder)[::-1]
    if Path(ref).suffix != ".py":
        raise CompressError(f"'{ref}' is no Python file (.py)")
    file = first_file(looked)
    if file is None:
        raise missing(f"the file of layers '{ref}' is not there", looked, _GIVE_MODULES)
    return Artifact(file.absolute(), sha256_of(file))


def _model_yaml(ref: str, looked: Sequence[Path]) -> Artifact:
    for place in looked:
        file = first_file((place, place.with_name(without_scale(place.name))))
        if file is not None:
            return _yaml_artifact(place, file)
    shipped = model_yamls()
    name = next((name for name in (ref, without_scale(ref)) if name in shipped), None)
    if name is not None:
        return _yaml_artifact(Path(ref), shipped[name])
    what = f"the model yaml '{ref}' is not there{_near(ref, shipped)}"
    own = "; ultralytics' own, such as yolov8n.yaml, need only their name"
    raise missing(what, looked, _GIVE_MODEL + own)


def _yaml_artifact(path: Path, file: Path) -> Artifact:
    text, values = read_yaml(file)
    if not {"backbone", "head"} <= values.keys():
        raise CompressError(f"{file}: not a model yaml: it has no `backbone:` and `head:`")
    return Artifact(path, hashlib.sha256(f"{path.name}\0{text}".encode()).hexdigest())


def _near(ref: str, shipped: Iterable[str]) -> str:
    names = [name.replace(".yaml", f"{scale}.yaml") for name in shipped for scale in ("", "n")]
    return did_you_mean(ref, names) if is_bare(ref) else ""


def _no_data_yaml(ref: str, looked: Sequence[Path], shipped: Iterable[str]) -> CompressError:
    folder = first_folder(looked)
    if folder is not None:
        inside = ", ".join(sorted(file.name for file in folder.glob("*.y*ml"))) or "none"
        return CompressError(f"'{ref}' is a folder; name a data yaml (in it: {inside})")
    near = did_you_mean(ref, [*shipped, SAMPLE]) if is_bare(ref) else ""
    remedy = "copy it to one of these places, or name yours: `data=PATH`; `data=sample` is drawn"
    return missing(f"the data yaml '{ref}' is not there{near}", looked, remedy)
