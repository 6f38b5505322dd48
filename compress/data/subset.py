"""A data yaml for some of a data set's images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from compress.data.data_yaml import read_data_yaml
from compress.data.dataset import DataSet

_IMAGES = "images.txt"
# keys that name images or where they lie
_PLACES = ("path", "train", "val", "validation", "test", "minival", "download")


def write_subset(data: DataSet, images: Sequence[Path], folder: Path) -> Path:
    """Write a data yaml into ``folder`` whose splits train and val are both ``images``.

    Images and labels stay where they are; all that the yaml says of classes and labels is kept.
    """
    values = read_data_yaml(data.yaml).values
    kept = {key: value for key, value in values.items() if key not in _PLACES}
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    listing = "".join(f"{image.absolute()}\n" for image in images)
    (folder / _IMAGES).write_text(listing, encoding="utf-8")
    content = {"path": str(folder), "train": _IMAGES, "val": _IMAGES, **kept}
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file
