"""Relative paths in a data yaml may mean one folder to us and another to ultralytics.

That holds for ``path:`` and for the lines of a list of images. Such a yaml is copied with absolute
paths. The copy keeps every line where it was, and has no ``download:``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from compress.data.dataset import IMAGE_SUFFIX
from compress.pipeline.files import write_text
from compress.recipe.places import first_folder, missing, read_yaml

_SPLITS = ("train", "val", "validation", "test")


def with_images(file: Path, bases: Sequence[Path], cache: Path, remedy: str) -> Path:
    """``file``, or, where its ``path:`` is relative, a copy in ``cache`` with an absolute one.

    Raises:
        CompressError: under none of ``bases`` lie the images; ``remedy`` says what to do.
    """
    text, values = read_yaml(file)
    path = values.get("path")
    if not isinstance(path, str) or Path(path).expanduser().is_absolute():
        return file
    roots = list(dict.fromkeys((base / path).absolute() for base in bases))
    root = next((root for root in roots if _holds(root, values)), None)
    if root is None:
        wanted = " and ".join(_entries(values)) or f"folder {path}"
        raise missing(f"the images of '{file.name}' are not there ({wanted})", roots, remedy)
    return with_root(file, text, root, cache)


def with_root(file: Path, text: str, root: Path, cache: Path) -> Path:
    """A copy of the data yaml in ``cache`` whose images lie under ``root``."""
    return _copied(file, text, {"path": str(root.resolve()), "download": ""}, cache)


def with_absolute_lists(file: Path, cache: Path) -> Path:
    """``file``, or a copy in ``cache`` if a list of images in it has relative lines.

    Such a line counts from the folder of its list; to ultralytics only one that begins with ``./``
    does. A list that names what is not there is left to the one who reads it.
    """
    text, values = read_yaml(file)
    path = values.get("path") or "."
    splits = {key: values[key] for key in _SPLITS if _is_entry(values.get(key))}
    if not isinstance(path, str):
        return file
    root = (file.parent / Path(path).expanduser()).resolve()
    places = {key: _each(entry, lambda name: _place(root, name)) for key, entry in splits.items()}
    listed = {key: _each(entry, lambda name: _listed(name, cache)) for key, entry in places.items()}
    if listed == places:
        return file
    return _copied(file, text, {"path": str(root), "download": "", **listed}, cache)


def _copied(file: Path, text: str, new: Mapping[str, Any], cache: Path) -> Path:
    values = yaml.safe_load(text)
    wanted = {key: new.get(key, value) for key, value in values.items()}
    text = _replaced(text, new)
    if not _says(text, wanted):  # aliases: one text for two values
        text = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
    text = f"{text.rstrip()}\n# copy of {file}\n"
    copy = cache.absolute() / "data" / f"{file.stem}-{_digest(text)}" / file.name
    _write_once(copy, text)
    return copy


def _says(text: str, values: object) -> bool:
    try:
        return bool(yaml.safe_load(text) == values)
    except yaml.YAMLError:
        return False


def _is_entry(entry: object) -> bool:
    names = entry if isinstance(entry, list) else [entry]
    return all(isinstance(name, str) for name in names)


def _each(entry: Any, change: Callable[[str], str]) -> Any:
    return [change(name) for name in entry] if isinstance(entry, list) else change(entry)


def _place(root: Path, name: str) -> str:
    """Where a split's folder or list lies, as ultralytics finds it."""
    place = (root / name).resolve()
    if not place.exists() and name.startswith("../"):
        place = (root / name[3:]).resolve()
    return str(place)


def _listed(place: str, cache: Path) -> str:
    """The list at ``place``, or its copy with absolute lines; anything else is ``place`` itself."""
    listing = Path(place)
    if listing.suffix != ".txt" or not listing.is_file():
        return place
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return place
    images = [line for line in lines if IMAGE_SUFFIX.search(line.strip())]
    if all(line.startswith(("/", "./")) and line == line.strip() for line in images):
        return place
    absolute = [str(listing.parent / line.strip()) if line.strip() else "" for line in lines]
    if not all(Path(line).is_file() for line in absolute if IMAGE_SUFFIX.search(line)):
        return place
    text = "\n".join(absolute) + "\n"
    copy = cache.absolute() / "data" / "lists" / f"{listing.stem}-{_digest(text)}.txt"
    _write_once(copy, text)
    return str(copy)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _write_once(file: Path, text: str) -> None:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)


def _holds(root: Path, values: Mapping[str, Any]) -> bool:
    """Whether the images that training needs lie under ``root``."""
    return first_folder([root]) is not None and all(
        (root / entry).exists() or (root / entry.removeprefix("../")).exists()  # as ultralytics
        for entry in _entries(values)
    )


def _entries(values: Mapping[str, Any]) -> list[str]:
    named = (values.get("train"), values.get("val", values.get("validation")))
    lists = (entry if isinstance(entry, list) else [entry] for entry in named)
    return list(dict.fromkeys(entry for part in lists for entry in part if isinstance(entry, str)))


def _replaced(text: str, new: Mapping[str, Any]) -> str:
    """``text`` with other values for the keys that it has, every line where it was."""
    node = yaml.compose(text, yaml.SafeLoader)
    for key, value in reversed(node.value if isinstance(node, yaml.MappingNode) else []):
        if key.value in new:
            start, end = value.start_mark.index, value.end_mark.index
            lines = "\n" * text.count("\n", start, end)
            indent = " " if text[:start].endswith("\n") else ""
            value_text = indent + json.dumps(new[key.value], ensure_ascii=False)
            text = text[:start] + value_text + lines + text[end:]
    return text
