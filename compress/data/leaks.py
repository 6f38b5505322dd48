"""Whether images that ranges or weights are fitted to are also what results are measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from compress.errors import CompressError

MEASURED = ("val", "test")


def refuse_leaks(images: Sequence[Path], splits: Mapping[str, Iterable[Path]], what: str) -> None:
    """Refuse ``images`` of which one is also in the val or test split, under whatever name.

    Files are the same if their bytes are. Only files of equal size are read.

    Args:
        images: files that something is fitted to.
        splits: split -> its images, as in ``DataSet.splits``.
        what: what the images are for, such as "calibration".

    Raises:
        CompressError: with the first such image and its twin.
    """
    for split in MEASURED:
        twins = same_files(images, splits.get(split, ()))
        if twins:
            image, twin = next(iter(twins.items()))
            raise CompressError(
                f"{what}: {image} is also in the {split} split, as {twin} ({len(twins)} such "
                f"images in all). Results on {split} would look better than they are: delete it "
                "from one of the splits."
            )


def same_files(images: Iterable[Path], others: Iterable[Path]) -> dict[Path, Path]:
    """Each of ``images`` whose content is found among ``others``, with the file it was found in."""
    by_size: dict[int, list[Path]] = {}
    for other in others:
        by_size.setdefault(other.stat().st_size, []).append(other)
    digests: dict[Path, bytes] = {}

    def digest(file: Path) -> bytes:
        if file not in digests:
            digests[file] = hashlib.sha256(file.read_bytes()).digest()
        return digests[file]

    twins = {}
    for image in images:
        for other in by_size.get(image.stat().st_size, ()):
            if digest(image) == digest(other):
                twins[image] = other
                break
    return twins
