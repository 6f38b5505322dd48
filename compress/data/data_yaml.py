"""The text of a data yaml: its values, and where each of them stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compress.errors import CompressError


@dataclass(frozen=True)
class Keypoints:
    """Of each object: ``shape`` is how many, and values of each (2: x, y; 3: and visibility).

    ``flip`` maps each to its mirror image, empty where the data do not tell; ``sigmas`` are the
    spreads that mAP allows them, empty for ultralytics' own.
    """

    shape: tuple[int, int]
    flip: tuple[int, ...] = ()
    sigmas: tuple[float, ...] = ()


@dataclass(frozen=True)
class DataYaml:
    """Top-level ``values`` by key, and the line and column (from 1) of each key."""

    file: Path
    values: Mapping[str, Any]
    places: Mapping[str, tuple[int, int]]

    def fault(self, message: str, key: str = "") -> CompressError:
        """An error that says where ``key`` stands in the file."""
        line, column = self.places.get(key, (0, 0))
        place = f":{line}:{column}" if line else ""
        return CompressError(f"{self.file}{place}: {message}")

    def names(self) -> dict[int, str]:
        """The classes, numbered from 0 without gaps."""
        names = self.values.get("names")
        if isinstance(names, list):
            names = dict(enumerate(names))
        if not isinstance(names, dict) or not names:
            raise self.fault("no class names: give names as a list or as 0: name, 1: name", "names")
        if set(names) != set(range(len(names))):
            numbers = ", ".join(str(number) for number in names)
            raise self.fault(
                f"names must be numbered 0..{len(names) - 1} without gaps, not {numbers}", "names"
            )
        count = self.values.get("nc", len(names))
        if count != len(names):
            raise self.fault(f"nc is {count}, but names has {len(names)} classes", "nc")
        return {number: str(names[number]) for number in range(len(names))}

    def keypoints(self) -> Keypoints | None:
        """What ``kpt_shape`` and its companions say; None where the data have no keypoints."""
        shape = self.values.get("kpt_shape")
        if shape is None:
            return None
        if not _whole_numbers(shape) or len(shape) != 2 or shape[0] < 1 or shape[1] not in (2, 3):
            raise self.fault(
                "kpt_shape must be two numbers: how many keypoints an object has, and 2 (x, y) or "
                f"3 (and visibility); not {shape!r}",
                "kpt_shape",
            )
        flip = self.values.get("flip_idx") or []
        if flip and (not _whole_numbers(flip) or sorted(flip) != list(range(shape[0]))):
            raise self.fault(
                f"flip_idx must name each of the {shape[0]} keypoints 0..{shape[0] - 1} once: its "
                "place in the mirrored picture",
                "flip_idx",
            )
        sigmas = self.values.get("kpt_oks_sigmas") or []
        if sigmas and (not isinstance(sigmas, list) or len(sigmas) != shape[0]):
            raise self.fault(f"kpt_oks_sigmas must be {shape[0]} numbers", "kpt_oks_sigmas")
        return Keypoints((shape[0], shape[1]), tuple(flip), tuple(map(float, sigmas)))

    def root(self) -> Path:
        """The folder that the splits count from: ``path:``, relative to the yaml's own folder."""
        path = self.values.get("path") or "."
        if not isinstance(path, str):
            raise self.fault(f"path must be a folder, not {path!r}", "path")
        root = (self.file.parent / Path(path).expanduser()).resolve()
        if not root.is_dir():
            raise self.fault(f"no such folder: {root} (relative to the yaml)", "path")
        return root

    def entries(self, key: str) -> list[str]:
        """What a split lists: folders or .txt files; empty where the yaml has no such key."""
        entries = self.values.get(key) or []
        if isinstance(entries, str):
            return [entries]
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise self.fault(f"{key} must be a folder, a .txt list of images, or several", key)
        return entries


def read_data_yaml(file: Path) -> DataYaml:
    """Parse a data yaml.

    Raises:
        CompressError: it is missing, no YAML, or no mapping.
    """
    file = file.expanduser().absolute()
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8-sig"))
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else None
    except OSError as error:
        raise CompressError(
            f"{file}: cannot read the data yaml: {error.strerror}. Give the path of one as data="
        ) from error
    except UnicodeDecodeError as error:
        raise CompressError(f"{file}: not UTF-8 text (byte {error.start})") from error
    except yaml.YAMLError as error:
        raise CompressError(f"{file}{_place(error)}: not valid YAML: {_reason(error)}") from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise CompressError(f"{file}: not a data yaml: it needs the keys train, val and names")
    marks = {str(key.value): key.start_mark for key, _ in node.value}
    places = {key: (mark.line + 1, mark.column + 1) for key, mark in marks.items()}
    source = DataYaml(file, values, places)
    _refuse_duplicates(source, node)
    return source


def _refuse_duplicates(source: DataYaml, node: yaml.MappingNode) -> None:
    """YAML would silently take the last one, and the labels would mean another class."""
    names = [value for key, value in node.value if key.value == "names"]
    for what, mapping in (("key", node), *(("class number", value) for value in names)):
        keys = [key for key, _ in mapping.value] if isinstance(mapping, yaml.MappingNode) else []
        told = [yaml.safe_load(key.value) for key in keys if isinstance(key, yaml.ScalarNode)]
        twice = [number for number, key in enumerate(told) if key in told[:number]]
        if twice:
            mark = keys[twice[0]].start_mark
            place = f"{source.file}:{mark.line + 1}:{mark.column + 1}"
            raise CompressError(f"{place}: {what} {told[twice[0]]} is given twice; delete one")


def _whole_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def _reason(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
