"""One hash for everything that a data set can change in a result."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from compress.data.dataset import DataSet, label_path
from compress.data.memo import look_up


def fingerprint(dataset: DataSet, memo: Path) -> str:
    """Hash (64 hex digits) over names, keypoints, and all images and labels by path and content.

    Paths count from the folder that all images share, so a copy elsewhere has the same hash.
    ``memo`` is a file that keeps the hash of each file under its size and time of change: the next
    call reads only what has changed. A memo that is missing or damaged costs time, nothing else.

    Raises:
        OSError: an image or label cannot be read.
    """
    images = sorted({image for split in dataset.splits.values() for image in split})
    digests = look_up([*images, *map(label_path, images)], memo, _sha256)
    root = os.path.commonpath([image.parent for image in images])
    splits = {
        split: [
            (image.relative_to(root).as_posix(), digests[image], digests[label_path(image)])
            for image in sorted(files)
        ]
        for split, files in dataset.splits.items()
    }
    facts = {"names": dataset.names, "splits": splits}
    if dataset.keypoints is not None:
        facts["keypoints"] = asdict(dataset.keypoints)
    content = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
