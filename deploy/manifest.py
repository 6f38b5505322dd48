"""``manifest.json`` of a bundle: what is in it, how images go in, what the numbers mean."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import DeployError

SCHEMA = 1
MANIFEST = "manifest.json"
TASKS = ("detect", "segment", "pose", "obb")
LAYOUTS = ("cells", "boxes")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Preprocessing:
    """Letterbox of ``height`` and ``width`` pixels with a border of colour ``pad`` (0 to 255).

    Pixels are multiplied by ``scale``; RGB, channels first.
    """

    height: int
    width: int
    pad: int = 114
    scale: float = 1 / 255


@dataclass(frozen=True)
class Postprocessing:
    """What the first output holds and which boxes count.

    ``layout``: ``cells`` is (1, 4 + classes + extras, n), boxes as xywh and one score a class;
    ``boxes`` is (1, n, 6 + extras), one score and the class, nothing left to suppress. Extras are
    ``masks`` coefficients, the numbers of ``keypoints`` (count and values of each) or an angle.
    ``score`` and ``iou`` are thresholds from 0 to 1.
    """

    task: str
    layout: str
    classes: int
    score: float
    iou: float
    max_boxes: int
    masks: int = 0
    keypoints: tuple[int, int] = (0, 0)

    @property
    def extras(self) -> int:
        """Numbers of a box beside its coordinates and scores."""
        return self.masks + self.keypoints[0] * self.keypoints[1] + (self.task == "obb")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are those that its manifest names. ``model`` is the ONNX file."""

    folder: Path
    model: Path
    target: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    postprocessing: Postprocessing


def read_bundle(folder: Path) -> Bundle:
    """Read the manifest and compare every file with its hash.

    Raises:
        DeployError: it is no bundle, is of a newer version, is damaged, or a file was changed.
    """
    manifest = _load(folder)
    try:
        _check_files(folder, manifest["files"])
        return _bundle(folder, manifest)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DeployError(
            f"'{folder / MANIFEST}' is damaged ({type(error).__name__}: {error}). Make the bundle "
            "again, or copy all of it again"
        ) from error


def sha256_of(file: Path) -> str:
    """SHA-256 of the file's bytes, as hexadecimal text."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def _load(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise DeployError(
            f"'{folder}' is no bundle: its {MANIFEST} cannot be read ({error.strerror}). Name the "
            "folder that the stage 'bundle' or `compress bundle` made"
        ) from error
    except ValueError as error:
        raise DeployError(
            f"'{folder / MANIFEST}' is damaged: {error}. Copy the bundle again"
        ) from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if not isinstance(schema, int) or "postprocessing" not in manifest:
        raise DeployError(f"'{folder}' is no bundle: its {MANIFEST} describes something else")
    if schema > SCHEMA:
        raise DeployError(
            f"'{folder}' is a bundle of schema {schema}; this version reads up to {SCHEMA}. Update "
            "it, or run the detect.py of the bundle itself"
        )
    return dict(manifest)


def _check_files(folder: Path, files: dict[str, Any]) -> None:
    for name, expected in files.items():
        _inside(folder, name)
        try:
            actual = sha256_of(folder / name)
        except OSError as error:
            raise DeployError(
                f"'{folder / name}' cannot be read ({error.strerror}), but the bundle's {MANIFEST} "
                "names it. Copy the bundle again"
            ) from error
        if actual != expected["sha256"]:
            raise DeployError(
                f"'{folder / name}' was changed since the bundle was made: its hash is another one "
                f"than in {MANIFEST}. Copy the bundle again, or make a new one"
            )


def _inside(folder: Path, name: str) -> None:
    if folder.resolve() not in (folder / name).resolve().parents:
        raise ValueError(f"the file '{name}' lies outside of the bundle")


def _bundle(folder: Path, manifest: dict[str, Any]) -> Bundle:
    before, after = dict(manifest["preprocessing"]), dict(manifest["postprocessing"])
    for key, only in (("color", "RGB"), ("layout", "NCHW")):
        if before.pop(key) != only:
            raise ValueError(f"{key} must be {only}")
    height, width = before.pop("letterbox")
    after["keypoints"] = tuple(int(count) for count in after["keypoints"])
    after.pop("strides")
    bundle = Bundle(
        folder,
        folder / str(manifest["model"]),
        str(manifest["target"]),
        tuple(str(label) for label in manifest["labels"]),
        Preprocessing(int(height), int(width), **before),
        Postprocessing(**after),
    )
    if str(manifest["model"]) not in manifest["files"]:
        raise ValueError("the model has no hash")
    _check(bundle)
    return bundle


def _check(bundle: Bundle) -> None:
    before, after = bundle.preprocessing, bundle.postprocessing
    holds = {
        "letterbox": min(before.height, before.width) >= 1,
        "pad": 0 <= before.pad <= 255,
        "scale": before.scale > 0,
        "task": after.task in TASKS,
        "layout": after.layout in LAYOUTS,
        "classes": after.classes == len(bundle.labels) >= 1,
        "score": 0 <= after.score < 1,
        "iou": 0 < after.iou < 1,
        "max_boxes": after.max_boxes >= 1,
        "masks": (after.masks > 0) == (after.task == "segment"),
        "keypoints": (after.keypoints != (0, 0)) == (after.task == "pose"),
    }
    wrong = [name for name, fits in holds.items() if not fits]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} cannot be as written")
