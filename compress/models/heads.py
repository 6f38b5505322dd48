"""Which task a model yaml is made for, by the name of its last layer. Imports no heavy library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from compress.errors import CompressError
from compress.models.shipped import model_yamls, without_scale

# ultralytics' names of tasks and of the layers that serve them
HEADS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "detect": ("Detect", "v10Detect"),
        "segment": ("Segment", "Segment26"),
        "pose": ("Pose", "Pose26"),
        "obb": ("OBB", "OBB26"),
        "classify": ("Classify",),
    }
)
KeypointShape = tuple[int, int]


@dataclass(frozen=True)
class HeadFacts:
    """What a recipe's checks ask of a model.

    ``end_to_end``: it needs no non-maximum suppression. ``keypoints``: how many an object has,
    and values of each (2: x, y; 3: and visibility), of a pose model.
    """

    task: str
    end_to_end: bool
    keypoints: KeypointShape | None = None


def task_of_head(name: str) -> str:
    """The task of a head's class, such as ``Detect``.

    Raises:
        CompressError: if no task is known for it.
    """
    for task, heads in HEADS.items():
        if name in heads:
            return task
    known = ", ".join(head for heads in HEADS.values() for head in heads)
    raise CompressError(
        f"The model's last layer is {name}, which cannot be compressed. Give a model whose last "
        f"layer is one of {known}, such as yolov8n."
    )


def facts_of_yaml(file: Path) -> HeadFacts | None:
    """What a model yaml (a path, or a name that ultralytics knows) says of its head.

    None where it cannot be read: building it will say why.

    Raises:
        CompressError: if no task is known for its head.
    """
    content = _content(file)
    try:
        head = str(content["head"][-1][2])
    except (KeyError, IndexError, TypeError):
        return None
    end_to_end = head == "v10Detect" or bool(content.get("end2end"))
    try:
        return HeadFacts(task_of_head(head), end_to_end)  # keypoints follow the data
    except CompressError as error:
        raise CompressError(f"{file}: {error}") from error


def _content(file: Path) -> dict[str, Any]:
    shipped = model_yamls()
    named = (shipped.get(name) for name in (file.name, without_scale(file.name)))
    for path in filter(None, (file, *named)):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        return content if isinstance(content, dict) else {}
    return {}
