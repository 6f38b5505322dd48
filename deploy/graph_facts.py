"""What a graph takes and gives, read off the metadata that ultralytics and our export write."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deploy.manifest import TASKS, Postprocessing, Preprocessing

# what metadata that are none can raise
_DAMAGE = (AttributeError, IndexError, MemoryError, RecursionError, SyntaxError, TypeError)


@dataclass(frozen=True)
class Thresholds:
    """What counts as an object: least score, overlap limit (0 to 1), most boxes of an image."""

    score: float = 0.25
    iou: float = 0.7
    max_boxes: int = 300


@dataclass(frozen=True)
class GraphFacts:
    """Class names, how images go in, what comes out, and the strides of the head's levels.

    ``strides`` is empty where the graph keeps only some of the cells, or suppresses boxes itself.
    """

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    strides: tuple[int, ...]


def graph_facts(
    metadata: Mapping[str, str],
    image: Sequence[Any],
    outputs: Sequence[Sequence[Any]],
    limits: Thresholds,
) -> GraphFacts:
    """What a graph with this ``metadata`` is.

    Args:
        metadata: ``names``, ``task``, ``stride`` and, by kind, ``end2end``, ``args`` and
            ``kpt_shape``, as texts.
        image: shape of the input.
        outputs: shapes of the outputs.
        limits: thresholds of its postprocessing.

    Raises:
        ValueError: it is no graph of one image and decoded boxes; says why.
    """
    try:
        labels = _labels(metadata["names"])
        _check_shapes(metadata, image, outputs)
        post = _postprocessing(metadata, outputs[0], len(labels), limits)
        stride = int(metadata["stride"])
    except KeyError as error:
        raise ValueError(f"its metadata lack {error}") from error
    except _DAMAGE as error:
        raise ValueError(str(error) or type(error).__name__) from error
    strides = _strides(stride, image[2:], outputs[0][2]) if post.layout == "cells" else ()
    return GraphFacts(labels, Preprocessing(*image[2:]), post, strides)


def _labels(text: str) -> tuple[str, ...]:
    """From ``{0: 'person', ...}``; line breaks would break the list of labels."""
    names = ast.literal_eval(text)
    if sorted(names) != list(range(len(names))):
        raise ValueError("its class names are not numbered from 0")
    return tuple(" ".join(str(names[number]).split()) for number in range(len(names)))


def _check_shapes(
    metadata: Mapping[str, str], image: Sequence[Any], outputs: Sequence[Sequence[Any]]
) -> None:
    task = metadata["task"]
    if task not in TASKS:
        raise ValueError(f"it is made for the task '{task}', bundles run {', '.join(TASKS)}")
    if image[:2] != [1, 3] or not all(isinstance(size, int) for size in image):
        raise ValueError(f"it takes {image}, not one RGB image of a fixed size")
    if [len(shape) for shape in outputs] != ([3, 4] if task == "segment" else [3]):
        raise ValueError(f"its outputs are of shape {outputs}, not decoded boxes")


def _postprocessing(
    metadata: Mapping[str, str], output: Sequence[Any], classes: int, limits: Thresholds
) -> Postprocessing:
    task = metadata["task"]
    whole = ast.literal_eval(metadata.get("end2end", "False")) or ast.literal_eval(
        metadata.get("args", "{}")
    ).get("nms", False)
    extras = output[2] - 6 if whole else output[1] - 4 - classes
    keypoints = ast.literal_eval(metadata["kpt_shape"]) if task == "pose" else (0, 0)
    post = Postprocessing(
        task,
        "boxes" if whole else "cells",
        classes,
        **asdict(limits),
        masks=extras if task == "segment" else 0,
        keypoints=(int(keypoints[0]), int(keypoints[1])),
    )
    if extras != post.extras or (task == "segment" and extras < 1):
        raise ValueError(f"its output of shape {output} does not fit {classes} classes")
    return post


def _strides(largest: int, size: Sequence[int], cells: int) -> tuple[int, ...]:
    """Of the head's levels; empty where the graph keeps only some of the cells."""
    strides: list[int] = []
    while largest > 1:
        strides.insert(0, largest)
        if sum((size[0] // stride) * (size[1] // stride) for stride in strides) == cells:
            return tuple(strides)
        largest //= 2
    return ()
