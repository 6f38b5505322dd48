"""CUDA by ``libcudart`` alone, for boards that have what JetPack ships and no PyCUDA."""

from __future__ import annotations

import contextlib
import ctypes
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from ctypes import byref, c_float, c_int, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.cuda.base import NON_BLOCKING, Pinned
from bench.cuda.graph import CudaGraph
from bench.cuda.library import load_cudart

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_TO_DEVICE, _TO_HOST = 1, 2
_CAPABILITY = (75, 76)  # cudaDevAttrComputeCapabilityMajor, ...Minor
_NAME_BYTES = 256  # cudaDeviceProp begins with the name
_PROPERTIES_BYTES = 8192  # far more than the struct has in any release


class Cudart:
    """The GPU ``index`` through CUDA's runtime library; see ``bench.cuda.base.Cuda``."""

    def __init__(self, index: int = 0) -> None:
        """Take the GPU and make a stream.

        Raises:
            CudaError: there is no library, no driver or no such GPU.
        """
        self._cudart = load_cudart()
        self._index = index
        self._closing = ExitStack()
        self._stream = c_void_p()
        self._cudart.cudaSetDevice(index)
        self.name = self._read_name()
        self.capability = (self._attribute(_CAPABILITY[0]), self._attribute(_CAPABILITY[1]))
        self._cudart.cudaStreamCreateWithFlags(byref(self._stream), NON_BLOCKING)
        self._closing.callback(self._cudart.cudaStreamDestroy, self._stream)
        self.stream = int(self._stream.value or 0)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU current in this thread."""
        self._cudart.cudaSetDevice(self._index)
        yield

    def pinned(self, shape: Sequence[int], kind: DTypeLike) -> Pinned:
        """Room for an array in host memory."""
        dtype, address = np.dtype(kind), c_void_p()
        size = max(math.prod(shape) * dtype.itemsize, 1)
        self._cudart.cudaHostAlloc(byref(address), size, 0)
        memory: Any = (ctypes.c_char * size).from_address(address.value or 0)
        end = weakref.finalize(memory, self._cudart.cudaFreeHost, address)
        end.atexit = False  # by then the driver may be gone
        values = np.frombuffer(memory, dtype, math.prod(shape)).reshape(tuple(shape))
        return Pinned(values, address.value or 0)

    def buffer(self, size: int) -> int:
        """Address of ``size`` bytes on the device."""
        address = c_void_p()
        self._cudart.cudaMalloc(byref(address), max(size, 1))
        self._closing.callback(self._cudart.cudaFree, address)
        return int(address.value or 0)

    def copy_to_device(self, address: int, source: Pinned) -> None:
        """Queue a copy."""
        size = source.values.nbytes
        self._cudart.cudaMemcpyAsync(address, source.address, size, _TO_DEVICE, self._stream)

    def copy_to_host(self, target: Pinned, address: int) -> None:
        """Queue a copy."""
        size = target.values.nbytes
        self._cudart.cudaMemcpyAsync(target.address, address, size, _TO_HOST, self._stream)

    def event(self) -> c_void_p:
        """An event that tells time."""
        event = c_void_p()
        self._cudart.cudaEventCreateWithFlags(byref(event), 0)
        self._closing.callback(self._cudart.cudaEventDestroy, event)
        return event

    def record(self, event: c_void_p) -> None:
        """Queue the event."""
        self._cudart.cudaEventRecord(event, self._stream)

    def elapsed_ms(self, start: c_void_p, end: c_void_p) -> float:
        """Milliseconds between two events that have happened."""
        ms = c_float()
        self._cudart.cudaEventElapsedTime(byref(ms), start, end)
        return ms.value

    def synchronize(self) -> None:
        """Wait until all that is queued is done."""
        self._cudart.cudaStreamSynchronize(self._stream)

    def graph_of(self, call: Callable[[], object]) -> Callable[[], None]:
        """Record what ``call`` queues, as one graph."""
        graph = CudaGraph(self._cudart, self.stream, call)
        self._closing.callback(graph.close)
        return graph.launch

    def close(self) -> None:
        """Give back graphs, events, buffers and the stream."""
        self._closing.close()

    def _read_name(self) -> str:
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._cudart.cudaGetDeviceProperties(properties, self._index)
        return properties.raw[:_NAME_BYTES].split(b"\0")[0].decode(errors="replace")

    def _attribute(self, which: int) -> int:
        value = c_int()
        self._cudart.cudaDeviceGetAttribute(byref(value), which, self._index)
        return value.value
