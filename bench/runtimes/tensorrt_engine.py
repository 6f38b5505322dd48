"""TensorRT: an engine on a stream of its own, its parts told apart by events."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cuda.choose import open_cuda
from bench.errors import BenchError
from bench.runtimes.base import PARTS
from bench.runtimes.inputs import fill, random_input
from bench.runtimes.tensorrt_load import (
    complaints,
    deserialize,
    float_type_of,
    load_tensorrt,
    other_gpu,
    read_facts,
)
from bench.runtimes.tensorrt_tensors import input_of, names_of, output_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.cuda.base import Cuda, Pinned

_NS_PER_MS = 1e6


@dataclass
class _Opened:
    """All that exists inside the ``with`` block.

    Tensors have a place in host memory and an address on the GPU. ``events`` enclose the ``PARTS``.
    """

    cuda: Cuda
    version: str
    context: Any
    logger: Any
    input: tuple[Pinned, int]
    outputs: list[tuple[Pinned, int]]
    events: list[Any]
    compute: Callable[[], None]
    thread: int = field(default_factory=threading.get_ident)


class TensorRtEngine:
    """An ``.engine`` file in TensorRT 8.5 or newer: pinned host memory, own stream, CUDA graph.

    ``infer`` may be called from any thread, but from one at a time.
    """

    def __init__(
        self,
        path: Path,
        shape: Sequence[int] | None = None,
        seed: int = 0,
        index: int = 0,
        cuda_graph: bool = True,
        profiler: Callable[[Any], Any] | None = None,
    ) -> None:
        """Name the file; nothing is read before the ``with`` block.

        Args:
            path: the engine.
            shape: of the input, needed only where the engine leaves dimensions open.
            seed: of the random input in [0, 1).
            index: of the GPU.
            cuda_graph: launch all kernels as one graph.
            profiler: makes an ``IProfiler`` of the module ``tensorrt``, which is told the time of
                each layer; that slows all of them down, and needs ``cuda_graph`` off.
        """
        self._path = path
        self._shape = shape
        self._seed = seed
        self._index = index
        self._cuda_graph = cuda_graph
        self._profiler = profiler
        self._facts: Mapping[str, Any] = {}
        self._closing = ExitStack()
        self._opened: _Opened | None = None
        self._notes: list[str] = []

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the one input, the batch first. Known once entered."""
        return self._inside().input[0].values.shape

    @property
    def runtime(self) -> str:
        """Name and version. Known once entered."""
        return f"TensorRT {self._inside().version}"

    @property
    def device(self) -> str:
        """Name of the GPU. Known once entered."""
        return self._inside().cuda.name

    @property
    def float_type(self) -> str:
        """What float layers compute in, as the JSON beside the engine says; else ``unknown``."""
        return float_type_of(self._facts)

    @property
    def notes(self) -> list[str]:
        """An engine of another GPU, and a CUDA graph that could not be made."""
        return self._notes

    def __enter__(self) -> TensorRtEngine:
        """Load the engine, give it memory, run it once, and record its graph.

        Raises:
            BenchError: TensorRT or CUDA is missing or too old, the file is damaged or built for
                another version or GPU, or its input is not the one image that the bench feeds.
        """
        trt = load_tensorrt(self._path)
        with ExitStack() as opening:
            cuda = open_cuda(self._index)
            opening.callback(cuda.close)
            opening.callback(self._forget)  # TensorRT's objects go before their memory
            self._facts = read_facts(self._path)
            self._open(trt, cuda)
            self._closing = opening.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """Give back the engine and its memory."""
        self._closing.close()

    def infer(self) -> None:
        """Run one batch: copy it to the GPU, compute, copy back, wait.

        Raises:
            BenchError: TensorRT or CUDA fails.
        """
        opened = self._inside()
        if threading.get_ident() == opened.thread:
            _run(opened)
        else:
            with opened.cuda.current():
                _run(opened)

    def feed(self, values: NDArray[Any]) -> None:
        """Take other input values, float32 of ``input_shape``."""
        fill(self._inside().input[0].values, values)

    def parts_ns(self) -> Mapping[str, int]:
        """Nanoseconds of the last ``infer`` by part, between events on the stream."""
        opened = self._inside()
        elapsed, events = opened.cuda.elapsed_ms, opened.events
        return {
            part: round(elapsed(start, end) * _NS_PER_MS)
            for part, start, end in zip(PARTS, events, events[1:])
        }

    def outputs(self) -> list[NDArray[Any]]:
        """What the last ``infer`` gave, in pinned memory."""
        return [host.values for host, _ in self._inside().outputs]

    def _inside(self) -> _Opened:
        if self._opened is None:
            raise RuntimeError("an engine is used inside of the with block")
        return self._opened

    def _forget(self) -> None:
        self._opened = None

    def _open(self, trt: Any, cuda: Cuda) -> None:
        engine, logger = deserialize(trt, self._path, self._facts, cuda.name)
        context = engine.create_execution_context()
        if context is None:
            raise BenchError(
                f"'{self._path}': TensorRT cannot make room to run it. {complaints(logger)}"
            )
        entry = self._input(trt, cuda, engine, context, logger)
        outputs = []
        for name in names_of(trt, engine, "OUTPUT"):
            shape, kind = output_of(trt, engine, context, name, self._path)
            outputs.append(_memory(cuda, context, name, shape, kind))
        if self._profiler is not None:
            context.profiler = self._profiler(trt)
        enqueue = functools.partial(_enqueue, context, cuda.stream, logger, self._path)
        events = [cuda.event() for _ in range(len(PARTS) + 1)]
        self._opened = _Opened(
            cuda, str(trt.__version__), context, logger, entry, outputs, events, enqueue
        )
        built_on = other_gpu(self._facts, cuda.name)
        self._notes = [] if built_on is None else [f"built on {built_on}, and runs on {cuda.name}"]
        if self._cuda_graph:
            self._record_graph(self._opened)

    def _input(
        self, trt: Any, cuda: Cuda, engine: Any, context: Any, logger: Any
    ) -> tuple[Pinned, int]:
        name, shape, kind = input_of(trt, engine, self._shape, self._path)
        if not context.set_input_shape(name, shape) or context.infer_shapes():
            raise BenchError(
                f"'{self._path}' does not take an input of shape {list(shape)}. "
                f"{complaints(logger)}"
            )
        host, address = _memory(cuda, context, name, shape, kind)
        fill(host.values, random_input(shape, kind, self._seed))
        return host, address

    def _record_graph(self, opened: _Opened) -> None:
        """TensorRT prepares things at its first run, which no graph could hold."""
        _run(opened)
        enqueue = opened.compute
        try:
            opened.compute = opened.cuda.graph_of(enqueue)
            _run(opened)
        except BenchError as error:
            opened.compute = enqueue
            self._notes.append(f"runs without CUDA graph: {error}")


def _memory(
    cuda: Cuda, context: Any, name: str, shape: tuple[int, ...], kind: Any
) -> tuple[Pinned, int]:
    """A tensor's place in pinned host memory, and its address on the device."""
    host = cuda.pinned(shape, kind)
    address = cuda.buffer(host.values.nbytes)
    if not context.set_tensor_address(name, address):
        raise BenchError(f"TensorRT takes no memory for '{name}'.")
    return host, address


def _enqueue(context: Any, stream: int, logger: Any, path: Path) -> None:
    if not context.execute_async_v3(stream):
        raise BenchError(f"'{path}' fails in TensorRT. {complaints(logger)}")


def _run(opened: _Opened) -> None:
    cuda, (before, fed, computed, after) = opened.cuda, opened.events
    host, address = opened.input
    cuda.record(before)
    cuda.copy_to_device(address, host)
    cuda.record(fed)
    opened.compute()
    cuda.record(computed)
    for host, address in opened.outputs:
        cuda.copy_to_host(host, address)
    cuda.record(after)
    cuda.synchronize()
