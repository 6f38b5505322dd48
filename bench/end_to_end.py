"""From an image's pixels to its boxes, with the pre- and post-processing of ``deploy``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.loop import Minimum
from bench.output_reading import processing_of
from bench.results.schema import EndToEnd
from bench.runtimes.base import Runtime
from bench.settings import Settings
from bench.statistics import latency_of, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.arrays import Image
    from deploy.manifest import Postprocessing, Preprocessing

STEPS = ("letterbox", "inference", "decode", "nms", "to_image")
_MOST_IMAGES = 32
_MOST_BYTES = 1 << 28  # of all pixels: a board has little memory
_LEAST_CALLS = 64
_WARMUP_CALLS = 3


def measure_end_to_end(
    runtime: Runtime,
    path: Path,
    images: Path,
    settings: Settings,
    stopped: Callable[[], bool],
) -> EndToEnd:
    """Letterbox, inference, decode and NMS of the images in ``images``, in turn.

    Inference is that of the latency with the copies into and out of the runtime's buffers; steps
    add up to the whole. At most 32 images are taken, drawn with ``settings.seed``, and read before
    the clock starts. It goes on for half of ``settings.min_seconds`` and at least 64 calls.

    Args:
        runtime: entered.
        path: the artifact that it runs; what lies beside it may say how outputs are read.
        images: an image, or a folder of images.
        settings: how to measure.
        stopped: whether to end early; asked between images.

    Raises:
        BenchError: there is no image, nothing says how the file's outputs are read, or the net
            takes several images at once.
    """
    if runtime.input_shape[0] != 1:
        raise BenchError(
            f"'{path}' takes {runtime.input_shape[0]} images at once; the end-to-end latency is of "
            "one. Give a shape that begins with 1, or leave --images out."
        )
    with _deploy_errors():
        pixels = _read_images(images, settings.seed)
    runtime.infer()
    shapes = [output.shape for output in runtime.outputs()]
    before, after = processing_of(path, runtime.input_shape, shapes)
    return _measure(_Pipeline(runtime, path, before, after), pixels, settings, stopped)


class _Pipeline:
    """All steps for one image."""

    def __init__(
        self, runtime: Runtime, path: Path, before: Preprocessing, after: Postprocessing
    ) -> None:
        self._runtime = runtime
        self._path = path
        self._before = before
        self._after = after

    def run(self, image: Image) -> tuple[list[int], int]:
        """Nanoseconds of each of ``STEPS``, and how many boxes there are."""
        from deploy.decode import candidates_of, in_image, without_overlaps
        from deploy.processing import input_of, read_outputs

        runtime, settings, clock = self._runtime, self._after, time.perf_counter_ns
        marks = [clock()]
        values, place = input_of(image, self._before)
        marks.append(clock())
        runtime.feed(values)
        runtime.infer()
        outputs = runtime.outputs()
        marks.append(clock())
        output, prototypes = read_outputs(outputs, settings, str(self._path))
        found = candidates_of(output, settings)
        marks.append(clock())
        found = without_overlaps(found, settings)
        marks.append(clock())
        objects = in_image(found, prototypes, place, settings)
        marks.append(clock())
        return [end - begin for begin, end in zip(marks, marks[1:])], len(objects)


def _measure(
    pipeline: _Pipeline, images: list[Image], settings: Settings, stopped: Callable[[], bool]
) -> EndToEnd:
    minimum = Minimum(settings.min_seconds / 2, _LEAST_CALLS)
    steps: list[list[int]] = []
    boxes = 0
    with _deploy_errors():
        for call in range(_WARMUP_CALLS):
            pipeline.run(images[call % len(images)])
        started = time.perf_counter()
        # the first call always counts, so that there is something to tell
        while not steps or (
            minimum.share(time.perf_counter() - started, len(steps)) < 1 and not stopped()
        ):
            spent, found = pipeline.run(images[len(steps) % len(images)])
            steps.append(spent)
            boxes += found
    return EndToEnd(
        latency_ms=latency_of([sum(spent) for spent in steps]),
        steps_ms={
            name: percentile([spent[place] for spent in steps], 50) / 1e6
            for place, name in enumerate(STEPS)
        },
        images=min(len(images), len(steps)),
        boxes=boxes / len(steps),
    )


def drawn_images(source: Path, seed: int) -> list[Path]:
    """The images of ``source`` that are measured with: at least one, at most 32.

    Raises:
        DeployError: there is none.
    """
    from deploy.images import find_images

    files = find_images(source)
    if len(files) > _MOST_IMAGES:
        files = sorted(random.Random(seed).sample(files, _MOST_IMAGES))
    return files


def _read_images(source: Path, seed: int) -> list[Image]:
    """The pixels of images drawn from ``source``; at least one."""
    from deploy.images import read_image

    images: list[Image] = []
    for file in drawn_images(source, seed):
        if images and sum(image.nbytes for image in images) > _MOST_BYTES:
            break
        images.append(read_image(file))
    return images


@contextmanager
def _deploy_errors() -> Iterator[None]:
    """Faults of ``deploy`` as those of the bench."""
    from deploy.errors import DeployError

    try:
        yield
    except DeployError as error:
        raise BenchError(f"{error}.") from error
