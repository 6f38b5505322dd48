"""CUDA without a GPU: ``fake_cudart.c`` compiled, and PyCUDA's driver module on top of it."""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from ctypes import byref, c_float, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import bench.cuda.library

GPUS = ("Fake GPU 0", "Fake GPU 1")
PARTS_NS = {"host_to_device": 250_000, "compute": 2_000_000, "device_to_host": 125_000}
_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p)


@functools.cache
def compiled(release: str = "") -> Path:
    """The library, of a release before 11.4 if ``release`` says so. Skips where there is no gcc."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    folder = tempfile.mkdtemp(prefix="fake-cuda-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = Path(folder) / "libcudart.so"
    source = Path(__file__).with_name("fake_cudart.c")
    defines = [f"-D{release}"] if release else []
    command = [compiler, "-shared", "-fPIC", *defines, "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library


class FakeCuda:
    """The library as the machine's ``libcudart``, and what tests ask of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, release: str = "") -> None:
        path = compiled(release)
        monkeypatch.setattr(bench.cuda.library, "_places", lambda: iter([str(path)]))
        self.library = ctypes.CDLL(str(path))
        self.library.fake_fail(b"", 0)
        self._alive_before = self.library.fake_alive()
        self._calls: list[Any] = []

    def fail(self, name: str, status: int) -> None:
        """Let the next call of ``name`` return ``status``."""
        self.library.fake_fail(name.encode(), status)

    def count(self, name: str) -> int:
        """How often it was called."""
        return int(self.library.fake_count(name.encode()))

    def alive(self) -> int:
        """Handles and memory that nobody gave back since the test began."""
        if self.library.fake_alive() > self._alive_before:
            gc.collect()  # slow, and seldom needed
        return int(self.library.fake_alive() - self._alive_before)

    def launch(self, stream: int, call: Callable[[], None]) -> bool:
        """Queue a Python function as if it were a kernel."""
        kernel = _CALLBACK(lambda _: call())
        self._calls.append(kernel)
        return self.library.fake_enqueue(c_void_p(stream), kernel, None) == 0


def fake_pycuda(cuda: FakeCuda) -> Any:
    """The module ``pycuda.driver`` of 2020.1 and newer, as strict as the real one.

    Names, arguments and defaults are those of its sources (``src/wrapper/wrap_cudadrv.cpp``). A
    thread without a context can do nothing, and one that leaves a context on its stack is told.
    """
    driver: Any = ModuleType("pycuda.driver")
    stacks = threading.local()

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    def stack() -> list[Any]:
        if not hasattr(stacks, "contexts"):
            stacks.contexts = []
        contexts: list[Any] = stacks.contexts
        return contexts

    def checked(name: str, *arguments: Any) -> None:
        if not stack():
            raise LogicError(f"{name} failed: invalid device context")
        if getattr(cuda.library, name)(*arguments):
            raise LogicError(f"{name} failed: invalid argument")

    def init(flags: int = 0) -> None:
        driver.initialized = True

    class Context:
        __slots__ = ("_index",)

        def push(self) -> None:
            stack().append(self)
            checked("cudaSetDevice", self._index)

        @staticmethod
        def pop() -> None:
            if not stack():
                raise LogicError("context::pop failed: invalid device context")
            stack().pop()

    class Device:
        __slots__ = ("_index",)

        def __init__(self, number: int) -> None:
            if not hasattr(driver, "initialized"):
                raise LogicError("cuDeviceGet failed: initialization error")
            if number >= len(GPUS):
                raise LogicError("cuDeviceGet failed: invalid device ordinal")
            self._index = number

        def name(self) -> str:
            return GPUS[self._index]

        def compute_capability(self) -> tuple[int, int]:
            return 8, 7

        def retain_primary_context(self) -> Any:
            context = Context()
            context._index = self._index
            return context

    class Stream:
        __slots__ = ("_handle",)

        def __init__(self, flags: int = 0) -> None:
            self._handle = c_void_p()
            checked("cudaStreamCreateWithFlags", byref(self._handle), c_uint(flags))

        @property
        def handle(self) -> int:
            return int(self._handle.value or 0)

        def synchronize(self) -> None:
            checked("cudaStreamSynchronize", self._handle)

        def __del__(self) -> None:
            cuda.library.cudaStreamDestroy(self._handle)

    class Event:
        __slots__ = ("_handle",)

        def __init__(self, flags: int = 0) -> None:
            self._handle = c_void_p()
            checked("cudaEventCreateWithFlags", byref(self._handle), c_uint(flags))

        def record(self, stream: Any = None) -> Any:
            checked("cudaEventRecord", self._handle, stream._handle)
            return self

        def time_since(self, event: Any) -> float:
            ms = c_float()
            checked("cudaEventElapsedTime", byref(ms), event._handle, self._handle)
            return ms.value

        def __del__(self) -> None:
            cuda.library.cudaEventDestroy(self._handle)

    class DeviceAllocation:
        __slots__ = ("_address",)

        def __int__(self) -> int:
            return int(self._address.value or 0)

        def free(self) -> None:
            checked("cudaFree", self._address)

    class PagelockedHostAllocation:
        __slots__ = ("__array_interface__", "_address")

        def __del__(self) -> None:
            cuda.library.cudaFreeHost(self._address)

    def mem_alloc(size: int) -> Any:
        memory = DeviceAllocation()
        memory._address = c_void_p()
        checked("cudaMalloc", byref(memory._address), c_size_t(size))
        return memory

    def pagelocked_empty(shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        kind, address = np.dtype(dtype), c_void_p()
        size = int(np.prod(shape)) * kind.itemsize
        checked("cudaHostAlloc", byref(address), c_size_t(size), c_uint(mem_flags))
        owner: Any = PagelockedHostAllocation()
        owner._address = address
        owner.__array_interface__ = {
            "shape": tuple(shape),
            "typestr": kind.str,
            "data": (address.value, False),
            "version": 3,
        }
        return np.asarray(owner)

    def copy(to: int, source: int, size: int, kind: int, stream: Any) -> None:
        sizes = (c_void_p(to), c_void_p(source), c_size_t(size), c_int(kind))
        checked("cudaMemcpyAsync", *sizes, stream._handle)

    def memcpy_htod_async(dest: int, src: Any, stream: Any = None) -> None:
        assert isinstance(dest, (int, DeviceAllocation))
        assert src.flags.c_contiguous
        copy(int(dest), src.ctypes.data, src.nbytes, 1, stream)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Any = None) -> None:
        assert isinstance(src, (int, DeviceAllocation))
        assert dest.flags.c_contiguous
        assert dest.flags.writeable
        copy(dest.ctypes.data, int(src), dest.nbytes, 2, stream)

    for member in (Error, LogicError, init, Context, Device, Stream, Event, DeviceAllocation):
        setattr(driver, member.__name__, member)
    for function in (mem_alloc, pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async):
        setattr(driver, function.__name__, function)
    driver.depth = lambda: len(stack())
    return driver
