"""CUDA by PyCUDA, which speaks to the driver; CUDA graphs, which it lacks, by ``libcudart``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bench.cuda.base import NON_BLOCKING, CudaError, Pinned
from bench.cuda.graph import CudaGraph
from bench.cuda.library import load_cudart

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


def _told(method: Any) -> Any:
    """PyCUDA's exceptions as ours."""

    @functools.wraps(method)
    def call(self: PyCudaDriver, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except self.driver.Error as error:
            raise CudaError(f"PyCUDA: {error}.") from error

    return call


class PyCudaDriver:
    """The GPU ``index`` through PyCUDA; see ``bench.cuda.base.Cuda``."""

    def __init__(self, driver: Any, index: int = 0) -> None:
        """Take the GPU's primary context, the one that TensorRT and ``libcudart`` use as well.

        Args:
            driver: the module ``pycuda.driver``, 2020.1 or newer.
            index: of the GPU.

        Raises:
            CudaError: there is no driver or no such GPU.
        """
        self.driver = driver
        self._open(index)

    @_told
    def _open(self, index: int) -> None:
        self.driver.init()
        device = self.driver.Device(index)
        self.name = str(device.name())
        self.capability: tuple[int, int] = tuple(device.compute_capability())
        self._context = device.retain_primary_context()
        with ExitStack() as opening:
            self._context.push()
            # PyCUDA aborts a thread, and so the process, that ends with a context on its stack
            opening.callback(self.driver.Context.pop)
            self._stream = self.driver.Stream(NON_BLOCKING)
            self.stream = int(self._stream.handle)
            self._closing = opening.pop_all()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU current in this thread."""
        self._context.push()
        try:
            yield
        finally:
            self.driver.Context.pop()

    @_told
    def pinned(self, shape: Sequence[int], kind: DTypeLike) -> Pinned:
        """Room for an array in host memory."""
        values = self.driver.pagelocked_empty(tuple(shape), kind)
        return Pinned(values, values.ctypes.data)

    @_told
    def buffer(self, size: int) -> int:
        """Address of ``size`` bytes on the device."""
        memory = self.driver.mem_alloc(max(size, 1))
        self._closing.callback(memory.free)
        return int(memory)

    @_told
    def copy_to_device(self, address: int, source: Pinned) -> None:
        """Queue a copy."""
        self.driver.memcpy_htod_async(address, source.values, self._stream)

    @_told
    def copy_to_host(self, target: Pinned, address: int) -> None:
        """Queue a copy."""
        self.driver.memcpy_dtoh_async(target.values, address, self._stream)

    @_told
    def event(self) -> Any:
        """An event that tells time."""
        return self.driver.Event()

    @_told
    def record(self, event: Any) -> None:
        """Queue the event."""
        event.record(self._stream)

    @_told
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that have happened."""
        return float(end.time_since(start))

    @_told
    def synchronize(self) -> None:
        """Wait until all that is queued is done."""
        self._stream.synchronize()

    def graph_of(self, call: Callable[[], object]) -> Callable[[], None]:
        """Record what ``call`` queues, as one graph."""
        graph = CudaGraph(load_cudart(), self.stream, call)
        self._closing.callback(graph.close)
        return graph.launch

    def close(self) -> None:
        """Give back graphs, buffers and the context; the stream goes with this object."""
        self._closing.close()
