"""A data yaml with a relative ``path:`` means one folder to us and another to ultralytics.

So it is copied with the folder that does hold the images. The copy keeps every line where it was,
and has no ``download:``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from compress.pipeline.files import write_text
from compress.recipe.places import first_folder, missing, read_yaml


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
    text = _replaced(text, {"path": str(root.resolve()), "download": ""})
    text = f"{text.rstrip()}\n# copy of {file}\n"
    content = hashlib.sha256(text.encode()).hexdigest()[:8]
    copy = cache.absolute() / "data" / f"{file.stem}-{content}" / file.name
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_text(copy, text)
    return copy


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


def _replaced(text: str, new: Mapping[str, str]) -> str:
    """``text`` with other values for some top-level keys, every line where it was."""
    node = yaml.compose(text, yaml.SafeLoader)
    for key, value in reversed(node.value if isinstance(node, yaml.MappingNode) else []):
        if key.value in new:
            start, end = value.start_mark.index, value.end_mark.index
            lines = "\n" * text.count("\n", start, end)
            text = (
                text[:start] + json.dumps(new[key.value], ensure_ascii=False) + lines + text[end:]
            )
    return text
