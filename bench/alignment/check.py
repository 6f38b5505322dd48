"""Whether artifacts have the channel multiple that a device wants."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bench.alignment.convs import misaligned_convs, misalignment_message
from bench.entries import Entry
from bench.errors import BenchAlignmentError, BenchError


def require_alignment(
    files: Mapping[str, Entry], align: int, labels: Collection[str] | None = None
) -> None:
    """Pass if all convolutions of ``files`` (those of ``labels``; None for all) are aligned.

    Raises:
        BenchAlignmentError: some are not; lists them.
        BenchError: a label is of no file, or a file cannot be read.
    """
    unknown = sorted(set(labels or ()) - files.keys())
    if unknown:
        raise BenchError(f"align_labels names {unknown}; the files are {sorted(files)}.")
    found = {
        label: misaligned_convs(entry.path, align)
        for label, entry in files.items()
        if labels is None or label in labels
    }
    misaligned = {label: convs for label, convs in found.items() if convs}
    if misaligned:
        raise BenchAlignmentError(misalignment_message(misaligned, align), misaligned)
