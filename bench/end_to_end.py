"""From an image's pixels to its boxes, with the pre- and post-processing of ``deploy``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.errors import BenchError
from bench.results.schema import EndToEnd
from bench.runtimes.base import Runtime
from bench.settings import Settings


def measure_end_to_end(
    runtime: Runtime,
    path: Path,
    images: Path,
    settings: Settings,
    stopped: Callable[[], bool],
) -> EndToEnd:
    """Letterbox, inference, decode and NMS of the images in ``images``, in turn.

    Raises:
        BenchError: there is no image, or nothing says how the file's outputs are read.
    """
    raise BenchError("not there yet")
