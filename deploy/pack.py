"""Makes a bundle of an exported file: what the runtime needs to know is read off the graph."""

from __future__ import annotations

import ast
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.detector import Detector, load_model
from deploy.errors import DeployError
from deploy.manifest import (
    MANIFEST,
    SCHEMA,
    TASKS,
    Postprocessing,
    Preprocessing,
    read_bundle,
    sha256_of,
)

MODEL = "model.onnx"
RANGES = "ranges.json"
LABELS = "labels.txt"
_RUNTIME = "deploy"
_SCRIPT = '''"""Find objects: python detect.py IMAGE_OR_FOLDER [--json] [--out FOLDER]."""

import sys
from pathlib import Path

from deploy.main import main

sys.exit(main(Path(__file__).resolve().parent))
'''


@dataclass(frozen=True)
class Thresholds:
    """What counts as an object: least score, overlap limit (0 to 1), most boxes of an image."""

    score: float = 0.25
    iou: float = 0.7
    max_boxes: int = 300


def write_bundle(
    model: Path, target: str, folder: Path, limits: Thresholds, ranges: Path | None = None
) -> list[str]:
    """Write a bundle of the ONNX file ``model`` into ``folder``, which must be new or empty.

    Args:
        model: an exported file that carries ultralytics' metadata.
        target: the runtime that it was made for.
        folder: made if need be.
        limits: the thresholds of the bundle.
        ranges: scales and zero points of an INT8 file.

    Returns:
        The bundle's files relative to ``folder``, the manifest first.

    Raises:
        DeployError: the file is none that a bundle can run, or ``folder`` cannot be used.
    """
    _make_empty(folder)
    facts = _read_facts(model, limits)
    shutil.copyfile(model, folder / MODEL)
    if ranges is not None:
        shutil.copyfile(ranges, folder / RANGES)
    (folder / LABELS).write_text("".join(f"{name}\n" for name in facts.labels), encoding="utf-8")
    (folder / "detect.py").write_text(_SCRIPT, encoding="utf-8")
    _copy_runtime(folder / _RUNTIME)
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    manifest = _manifest(folder, files, facts, target)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    Detector(read_bundle(folder))  # what cannot be loaded is no bundle
    return [MANIFEST, *files]


@dataclass(frozen=True)
class _Facts:
    """What the graph and its metadata say."""

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    strides: tuple[int, ...]


def _read_facts(model: Path, limits: Thresholds) -> _Facts:
    session = load_model(model, "")
    metadata = session.get_modelmeta().custom_metadata_map
    outputs = [list(output.shape) for output in session.get_outputs()]
    image = list(session.get_inputs()[0].shape)
    try:
        labels = _labels(metadata["names"])
        _check_shapes(metadata, image, outputs)
        post = _postprocessing(metadata, outputs[0], len(labels), limits)
        stride = int(metadata["stride"])
    except (AttributeError, LookupError, SyntaxError, TypeError, ValueError) as error:
        raise DeployError(
            f"'{model}' cannot be bundled: {error or type(error).__name__}. Take a file that the "
            "stage 'export' wrote, with `head: decoded` or `head: nms`"
        ) from error
    strides = _strides(stride, image[2:], outputs[0][2]) if post.layout == "cells" else ()
    return _Facts(labels, Preprocessing(*image[2:]), post, strides)


def _labels(text: str) -> tuple[str, ...]:
    """From ``{0: 'person', ...}``; line breaks would break the list of labels."""
    names = ast.literal_eval(text)
    if sorted(names) != list(range(len(names))):
        raise ValueError("its class names are not numbered from 0")
    return tuple(" ".join(str(names[number]).split()) for number in range(len(names)))


def _check_shapes(metadata: dict[str, str], image: list[Any], outputs: list[list[Any]]) -> None:
    task = metadata["task"]
    if task not in TASKS:
        raise ValueError(f"it is made for the task '{task}', bundles run {', '.join(TASKS)}")
    if image[:2] != [1, 3] or not all(isinstance(size, int) for size in image):
        raise ValueError(f"it takes {image}, not one RGB image of a fixed size")
    if [len(shape) for shape in outputs] != ([3, 4] if task == "segment" else [3]):
        raise ValueError(f"its outputs are of shape {outputs}, not decoded boxes")


def _postprocessing(
    metadata: dict[str, str], output: list[int], classes: int, limits: Thresholds
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


def _strides(largest: int, size: list[int], cells: int) -> tuple[int, ...]:
    """Of the head's levels; empty where the graph keeps only some of the cells."""
    strides: list[int] = []
    while largest > 1:
        strides.insert(0, largest)
        if sum((size[0] // stride) * (size[1] // stride) for stride in strides) == cells:
            return tuple(strides)
        largest //= 2
    return ()


def _manifest(folder: Path, files: list[str], facts: _Facts, target: str) -> dict[str, Any]:
    before = asdict(facts.preprocessing)
    size = [before.pop("height"), before.pop("width")]
    return {
        "schema": SCHEMA,
        "target": target,
        "model": MODEL,
        "labels": list(facts.labels),
        "preprocessing": {"letterbox": size, **before, "color": "RGB", "layout": "NCHW"},
        "postprocessing": {**asdict(facts.postprocessing), "strides": list(facts.strides)},
        "files": {
            name: {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
            for name in files
        },
    }


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = any(folder.iterdir())
    except OSError as error:
        raise DeployError(f"'{folder}' cannot be written: {error.strerror}") from error
    if content:
        raise DeployError(f"'{folder}' is not empty: name another folder for the bundle")


def _copy_runtime(folder: Path) -> None:
    """This package without the part that makes bundles."""
    folder.mkdir()
    for module in Path(__file__).parent.glob("*.py"):
        if module.name != Path(__file__).name:
            shutil.copyfile(module, folder / module.name)
