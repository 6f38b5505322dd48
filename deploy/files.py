"""Run a detector over image files; what one file lacks does not stop the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.detections import Detections
from deploy.detector import Detector
from deploy.draw import draw
from deploy.errors import DeployError
from deploy.images import read_image

SCHEMA = 1
_DRAWN = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass
class Found:
    """``images`` are rows as ``detect_files`` describes them, ``failed`` maps a file to why."""

    images: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def document(self, detector: Detector) -> dict[str, Any]:
        """All of it as one JSON document."""
        return {
            "schema": SCHEMA,
            "bundle": str(detector.bundle.folder),
            "task": detector.bundle.postprocessing.task,
            "provider": detector.provider,
            "images": self.images,
            "failed": [{"image": name, "error": why} for name, why in self.failed.items()],
        }


def detect_files(
    detector: Detector,
    files: Sequence[Path],
    out: Path | None,
    done: Callable[[str], object],
) -> Found:
    """Find objects in each of ``files``.

    Args:
        detector: what finds them.
        files: images.
        out: a folder for drawn copies, made if need be.
        done: called with one line behind each file.

    Returns:
        A row an image: ``image`` (path), ``width``, ``height``, ``detections`` (``class``,
        ``name``, ``score``, ``box`` as x1, y1, x2, y2 in pixels of the image and, by task,
        ``mask``, ``keypoints``, ``rotated`` and ``corners``).

    Raises:
        DeployError: the net fails, or a picture cannot be drawn. An unreadable image is only
            noted.
    """
    found = Found()
    labels = detector.bundle.labels
    for file in files:
        try:
            image = read_image(file)
        except DeployError as error:
            found.failed[str(file)] = str(error)
            done(str(error))
            continue
        objects = detector.detect(image)
        height, width = objects.image
        row = {"image": str(file), "width": width, "height": height}
        found.images.append({**row, "detections": objects.as_json(labels)})
        if out is not None:
            _make(out)
            draw(image, objects, labels, out / _picture_name(file))
        done(f"{file}: {counts(objects, labels)}")
    return found


def counts(found: Detections, labels: tuple[str, ...]) -> str:
    """How many of each class, such as ``3: 2 person, 1 dog``."""
    classes = Counter(labels[number] for number in found.classes)
    each = ", ".join(f"{count} {name}" for name, count in classes.most_common())
    return f"{len(found)}: {each}" if each else "nothing"


def _picture_name(file: Path) -> str:
    """The image's own name, with a suffix that pictures can be written to."""
    return file.name if file.suffix.lower() in _DRAWN else f"{file.name}.png"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeployError(f"'{folder}' cannot be made: {error.strerror}") from error
