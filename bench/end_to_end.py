"""From an image's pixels to its boxes, with the pre- and post-processing of ``deploy``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.loop import Minimum, measure
from bench.output_reading import processing_of
from bench.results.schema import EndToEnd
from bench.runtimes.base import Runtime
from bench.settings import Settings
from bench.statistics import latency_of, percentile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.loop import ProgressCallback
    from deploy.arrays import Image
    from deploy.manifest import Postprocessing, Preprocessing

STEPS = ("letterbox", "inference", "decode", "nms", "to_image")
_MOST_IMAGES = 32
_MOST_BYTES = 1 << 28  # of all pixels: a board has little memory
_LEAST_CALLS = 64
_WARMUP_CALLS = 3


class Pipeline:
    """All steps of one artifact, for one image after the other."""

    def __init__(
        self,
        runtime: Runtime,
        path: Path,
        processing: tuple[Preprocessing, Postprocessing],
        images: Sequence[Image],
    ) -> None:
        """Take a runtime that is entered; see ``prepare``."""
        self._runtime = runtime
        self._path = path
        self._before, self._after = processing
        self._images = images
        self._calls = 0
        self.spent: list[int] = []  # nanoseconds of each of STEPS, in the last call
        self.boxes = 0  # of the last call

    @property
    def images(self) -> int:
        """How many different images there are."""
        return len(self._images)

    def run(self) -> None:
        """Take the next image through all steps.

        Raises:
            BenchError: the runtime fails, or gives other outputs than it said.
        """
        from deploy.decode import candidates_of, in_image, without_overlaps
        from deploy.processing import input_of, read_outputs

        image = self._images[self._calls % len(self._images)]
        runtime, settings, clock = self._runtime, self._after, time.perf_counter_ns
        with _deploy_errors():
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
        self.spent = [end - begin for begin, end in zip(marks, marks[1:])]
        self.boxes = len(objects)
        self._calls += 1


def prepare(
    runtimes: Mapping[str, Runtime], paths: Mapping[str, Path], source: Path, seed: int
) -> dict[str, Pipeline]:
    """A pipeline for each runtime, on the same images, read before any clock starts.

    Args:
        runtimes: entered, by label.
        paths: the artifacts that they run; what lies beside one may say how outputs are read.
        source: an image, or a folder of images, of which at most 32 are taken.
        seed: of the choice.

    Raises:
        BenchError: there is no image, nothing says how a file's outputs are read, or a net takes
            several images at once.
    """
    with _deploy_errors():
        images = _read_images(source, seed)
    return {
        label: Pipeline(runtime, paths[label], _processing(runtime, paths[label]), images)
        for label, runtime in runtimes.items()
    }


def _processing(runtime: Runtime, path: Path) -> tuple[Preprocessing, Postprocessing]:
    if runtime.input_shape[0] != 1:
        raise BenchError(
            f"'{path}' takes {runtime.input_shape[0]} images at once; the end-to-end latency is of "
            "one. Give a shape that begins with 1, or leave --images out."
        )
    runtime.infer()
    shapes = [output.shape for output in runtime.outputs()]
    return processing_of(path, runtime.input_shape, shapes)


def measure_end_to_end(
    pipelines: Mapping[str, Pipeline],
    settings: Settings,
    stopped: Callable[[], bool],
    progress: ProgressCallback | None = None,
) -> dict[str, EndToEnd]:
    """Letterbox, inference, decode and NMS, all files in turn as in the loop of the latency.

    Inference holds the copies into and out of the runtime's buffers; steps add up to the whole. It
    goes on for half of ``settings.min_seconds`` a file and at least 64 images.

    Raises:
        BenchError: a pipeline fails.
    """
    steps: dict[str, list[list[int]]] = {label: [] for label in pipelines}
    boxes: dict[str, list[int]] = {label: [] for label in pipelines}

    def keep(label: str) -> None:
        steps[label].append(pipelines[label].spent)
        boxes[label].append(pipelines[label].boxes)

    measure(
        {label: pipeline.run for label, pipeline in pipelines.items()},
        warmup=Minimum(0, _WARMUP_CALLS),
        minimum=Minimum(settings.min_seconds / 2 * len(pipelines), _LEAST_CALLS),
        progress=progress,
        stopped=stopped,
        after=keep,
    )
    return {
        label: _summary(steps[label], boxes[label], pipeline.images)
        for label, pipeline in pipelines.items()
        if steps[label]
    }


def _summary(steps: Sequence[Sequence[int]], boxes: Sequence[int], images: int) -> EndToEnd:
    return EndToEnd(
        latency_ms=latency_of([sum(spent) for spent in steps]),
        steps_ms={
            name: percentile([spent[place] for spent in steps], 50) / 1e6
            for place, name in enumerate(STEPS)
        },
        images=min(images, len(steps)),
        boxes=sum(boxes) / len(boxes),
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
