"""Which images a YOLO data yaml names, by ultralytics' rules, without ultralytics."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compress.data.data_yaml import DataYaml, Keypoints, read_data_yaml
from compress.data.labels import Fault, RowForm, label_faults
from compress.errors import CompressError

# as ultralytics
IMAGE_FORMATS = r"avif|bmp|dng|heic|heif|jp2|jpe?g|mpo|png|tiff?|webp"
IMAGE_SUFFIX = re.compile(rf"\.({IMAGE_FORMATS})$", re.IGNORECASE)
REQUIRED_SPLITS = ("train", "val")
SPLITS = (*REQUIRED_SPLITS, "test")
SHOWN_FAULTS = 10


@dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    ``names`` maps class 0, 1, ... to its name; ``splits`` maps ``train``, ``val`` and, where the
    yaml has one, ``test`` to absolute image paths in sorted order. ``keypoints`` is None where
    the yaml has no ``kpt_shape``.
    """

    yaml: Path
    names: dict[int, str]
    splits: dict[str, tuple[Path, ...]]
    keypoints: Keypoints | None = None

    @property
    def keypoint_shape(self) -> tuple[int, int] | None:
        """How many keypoints an object has, and values of each."""
        return self.keypoints.shape if self.keypoints else None


def label_path(image: Path) -> Path:
    """The label file of ``image``: its last ``images`` folder becomes ``labels``, suffix .txt."""
    head, found, tail = str(image).rpartition(f"{os.sep}images{os.sep}")
    swapped = f"{head}{os.sep}labels{os.sep}{tail}" if found else tail
    return Path(swapped).with_suffix(".txt")


def load_dataset(yaml: Path) -> DataSet:
    """Read a data yaml and list its images; labels are not opened (see ``check_labels``).

    A relative ``path:`` counts from the yaml's folder; without ``path:`` it is that folder.

    Raises:
        CompressError: the yaml or what it names is missing, malformed or empty.
    """
    source = read_data_yaml(yaml)
    names, root = source.names(), source.root()
    found = {split: _split_images(source, root, split) for split in SPLITS}
    splits = {split: files for split, files in found.items() if files}
    dataset = DataSet(source.file, names, splits, source.keypoints())
    for split in REQUIRED_SPLITS:
        require_labels(dataset, split, source)
    return dataset


def require_labels(dataset: DataSet, split: str, source: DataYaml | None = None) -> None:
    """Refuse a split of which no image at all has a label file.

    Raises:
        CompressError: at the split's key in the data yaml (``source``, read anew if not given).
    """
    images = dataset.splits[split]
    if any(label_path(image).is_file() for image in images):
        return
    source = source or read_data_yaml(dataset.yaml)
    raise source.fault(
        f"no image of the {split} split has a label file: {images[0]} needs "
        f"{label_path(images[0])}. Labels lie in a folder 'labels' beside 'images'",
        _key(source, split),
    )


def check_labels(dataset: DataSet, task: str = "") -> None:
    """Read every label file and report all faulty rows at once.

    An image without a label file is background and no fault. With a ``task`` (``segment``,
    ``pose`` or ``obb``) every row must have what it needs: a polygon, keypoints, four corners.

    Raises:
        CompressError: with the number of faults and the first ones as ``file:line: fault``, or
            because the data yaml of a pose task tells no keypoints.
    """
    if task == "pose" and dataset.keypoints is None:
        raise CompressError(
            f"{dataset.yaml}: no kpt_shape, so a pose model cannot be trained on these data. Add "
            "e.g. `kpt_shape: [17, 3]`: keypoints of an object, and values of each"
        )
    form = RowForm(len(dataset.names), task, dataset.keypoint_shape)
    images = {image for files in dataset.splits.values() for image in files}
    faults = [
        f"{label}:{line}: {fault}"
        for label in sorted(map(label_path, images))
        for line, fault in _label_faults(label, form)
    ]
    if not faults:
        return
    rest = len(faults) - SHOWN_FAULTS
    lines = [f"{dataset.yaml}: {len(faults)} faulty label rows", *faults[:SHOWN_FAULTS]]
    lines += [f"and {rest} more"] if rest > 0 else []
    raise CompressError("\n  ".join(lines) + "\nCorrect or delete these rows")


def _label_faults(label: Path, form: RowForm) -> list[Fault]:
    try:
        return label_faults(label.read_text(encoding="utf-8-sig"), form)
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        return [(1, "not UTF-8 text")]
    except OSError as error:
        return [(1, f"cannot be read: {error.strerror}")]


def _key(source: DataYaml, split: str) -> str:
    """What the yaml calls a split: ultralytics also knows val as ``validation``."""
    return "validation" if split == "val" and "val" not in source.values else split


def _split_images(source: DataYaml, root: Path, split: str) -> tuple[Path, ...]:
    key = _key(source, split)
    entries = source.entries(key)
    if not entries and split in REQUIRED_SPLITS:
        raise source.fault(f"no '{split}': a data yaml names the images of train and of val", key)
    images = sorted(image for entry in entries for image in _entry_images(source, root, entry, key))
    if entries and not images:
        where = ", ".join(str(root / entry) for entry in entries)
        raise source.fault(f"the {split} split is empty: no image in {where}", key)
    return tuple(images)


def _entry_images(source: DataYaml, root: Path, entry: str, key: str) -> Iterator[Path]:
    place = (root / entry).resolve()
    if not place.exists() and entry.startswith("../"):  # exports of Roboflow, as ultralytics does
        place = (root / entry[3:]).resolve()
    if place.is_dir():
        return _folder_images(place)
    if place.is_file():
        return _listed_images(place)
    raise source.fault(f"no such folder or list of images: {place}", key)


def list_images(place: Path) -> list[Path]:
    """Images in a folder and below it, or on the lines of a list, which count from its folder.

    Sorted, each once.

    Raises:
        CompressError: a list is no text, or names an image that is not there.
    """
    return sorted(set(_folder_images(place) if place.is_dir() else _listed_images(place)))


def _folder_images(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and IMAGE_SUFFIX.search(name):
                yield Path(parent, name)


def _listed_images(listing: Path) -> Iterator[Path]:
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CompressError(f"{listing}: not a list of image paths, it is no text") from error
    for number, line in enumerate(lines, start=1):
        image = listing.parent / line.strip()
        if not IMAGE_SUFFIX.search(image.name):
            continue
        if not image.is_file():
            raise CompressError(
                f"{listing}:{number}: no such image: {image}. "
                "Relative paths count from the folder of the list"
            )
        yield image
