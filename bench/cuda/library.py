"""CUDA's runtime library, ``libcudart``: where it lies, its signatures, its errors."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any

from bench.cuda.base import TEGRA, CudaError

# soname of each CUDA release, JetPack 4 (10.2) to 7 (13)
NAMES = (
    "libcudart.so",
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so.11.0",
    "libcudart.so.10.2",
)
_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib")

# cuda_runtime_api.h; handles are pointers, kinds and modes are enums
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaSetDevice": (c_int,),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaGetLastError": (),
    "cudaHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaEventCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaEventDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
}
# 11.4 and newer; the one without flags takes other arguments before 12.0 than after
WITH_FLAGS = "cudaGraphInstantiateWithFlags"
BEFORE_12 = "cudaGraphInstantiate"
_INSTANTIATE: dict[str, tuple[Any, ...]] = {
    WITH_FLAGS: (POINTER(c_void_p), c_void_p, c_ulonglong),
    BEFORE_12: (POINTER(c_void_p), c_void_p, POINTER(c_void_p), c_char_p, c_size_t),
}
_ADVICE = {
    2: "Measure fewer files or streams at once, or close what else holds the GPU's memory.",
    35: "There is no NVIDIA driver, or one older than this CUDA: nvidia-smi tells which it is.",
    100: "Check with nvidia-smi (on a Jetson: tegrastats) that the GPU is there.",
    101: "Choose another GPU with --index; they count from 0.",
    999: "Check that this user may open the GPU (on a Jetson: group video).",
}


def load_cudart() -> Any:
    """The library, its functions ready to be called: a status that is no success is raised.

    Raises:
        CudaError: it is not found, or is none.
    """
    why = []
    for place in _places():
        try:
            return _declared(ctypes.CDLL(place))
        except (OSError, AttributeError) as error:
            why.append(str(error))
    raise CudaError(
        f"CUDA's runtime library, libcudart, is not found ({why[0]}). Install the CUDA toolkit, or "
        f"PyCUDA and TensorRT: pip install 'yolo-compress[tensorrt]'. {TEGRA}."
    )


def _places() -> Iterator[str]:
    """Where the loader looks, then where CUDA and NVIDIA's wheels put it."""
    yield from NAMES
    for folder in _FOLDERS:
        yield from (str(Path(folder) / name) for name in NAMES)
    wheels = importlib.util.find_spec("nvidia")
    for place in (wheels and wheels.submodule_search_locations) or []:
        yield from (str(file) for file in sorted(Path(place).glob("cu*/lib/libcudart.so.*")))


def _declared(library: Any) -> Any:
    describe = library.cudaGetErrorString
    describe.restype, describe.argtypes = c_char_p, [c_int]

    def check(status: int, function: Any, arguments: object) -> int:
        if status:
            text = (describe(status) or b"unknown").decode(errors="replace")
            advice = _ADVICE.get(status, "")
            raise CudaError(f"{function.__name__}: {text} (error {status}). {advice}".rstrip())
        return status

    known = {name: types for name, types in _INSTANTIATE.items() if hasattr(library, name)}
    for name, types in {**SIGNATURES, **known}.items():
        function = getattr(library, name)
        function.restype, function.argtypes, function.errcheck = c_int, list(types), check
    return library
