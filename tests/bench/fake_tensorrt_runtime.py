"""TensorRT's bindings of 8.5 to 11, the side that runs engines, with engines made of JSON.

Members and parameter names are those of the official bindings; ``test_bench_runtime_contract.py``
compares them where these are installed. Like pybind11 classes these take no attribute that they do
not declare. An engine gives twice its input plus one in each output.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8}
TYPES |= {"INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}
LAYERS = {"/model.0/conv/Conv + PWN(/model.0/act/Mul)": 0.5, "/model.1/Concat": 0.25}
Launch = Callable[[int, Callable[[], None]], bool]


def plan(
    version: str = "10.3.0",
    gpu: str = "Fake GPU 0",
    shape: Sequence[int] = (1, 3, 4, 4),
    kind: str = "FLOAT",
    profile: Sequence[Sequence[int]] = (),
    **more: Any,
) -> bytes:
    """The bytes of an engine; a dynamic one has -1 in ``shape`` and a ``profile`` of 3 shapes."""
    image = {"name": "images", "mode": "INPUT", "shape": list(shape), "kind": kind}
    outputs = [
        {"name": "boxes", "mode": "OUTPUT", "shape": [shape[0], 6], "kind": "FLOAT"},
        {"name": "classes", "mode": "OUTPUT", "shape": [shape[0], 2, 3], "kind": "HALF"},
    ]
    tensors = [image, *outputs]
    facts = {"version": version, "gpu": gpu, "tensors": tensors, "profile": profile}
    return json.dumps({**facts, **more}).encode()


def fake(launch: Launch, version: str = "10.3.0", gpu: str = "Fake GPU 0") -> Any:
    """The module ``tensorrt`` of ``version``, whose engines run by ``launch(stream, call)``.

    ``refusing``: names of the context's calls that fail. ``synchronizing``: called in each enqueue,
    which no capture survives.
    """
    trt: Any = ModuleType("tensorrt")
    trt.__version__ = version
    trt.refusing, trt.synchronizing = set(), None
    trt.DataType = enum.Enum("DataType", [*TYPES, "FP8", "BF16"])
    trt.TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
    trt.TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
    trt.TensorFormat = enum.Enum("TensorFormat", ["LINEAR", "CHW2", "HWC8", "CHW32"])

    class ILogger:
        Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

        def __init__(self) -> None:
            self._made = True  # pybind11 refuses a subclass that does not call this

        def log(self, severity: Any, msg: str) -> None:
            raise RuntimeError('Tried to call pure virtual function "ILogger::log"')

    class IProfiler:
        def __init__(self) -> None:
            self._made = True

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            raise RuntimeError('Tried to call pure virtual function "IProfiler::reportLayerTime"')

    class IExecutionContext:
        __slots__ = ("_addresses", "_engine", "_profiler", "_shapes")

        @property
        def profiler(self) -> Any:
            return self._profiler

        @profiler.setter
        def profiler(self, profiler: Any) -> None:
            assert isinstance(profiler, IProfiler)
            assert profiler._made
            self._profiler = profiler

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert isinstance(shape, tuple)
            if "set_input_shape" in trt.refusing:
                self._engine._complain("the input shape is not supported")
                return False
            self._shapes[name] = shape
            return True

        def infer_shapes(self) -> list[str]:
            return [name for name in self._engine._names("INPUT") if name not in self._shapes]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            shape = self._engine._tensor(name)["shape"]
            if name in self._shapes:
                return self._shapes[name]
            [batch] = {given[0] for given in self._shapes.values()}
            return (batch if shape[0] < 0 else shape[0], *shape[1:])

        def set_tensor_address(self, name: str, memory: int) -> bool:
            assert type(memory) is int
            self._engine._tensor(name)
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert type(stream_handle) is int
            if (
                "execute_async_v3" in trt.refusing
                or len(self._addresses) < self._engine.num_io_tensors
            ):
                self._engine._complain("enqueueV3 failed")
                return False
            if self._profiler is not None:
                for name, ms in LAYERS.items():
                    self._profiler.report_layer_time(name, ms)
            if trt.synchronizing is not None:
                trt.synchronizing(stream_handle)
            return launch(stream_handle, self._compute)

        def _array(self, name: str) -> Any:
            kind = np.dtype(TYPES[self._engine._tensor(name)["kind"]])
            shape = self.get_tensor_shape(name)
            size = math.prod(shape) * kind.itemsize
            memory: Any = (ctypes.c_char * size).from_address(self._addresses[name])
            return np.frombuffer(memory, kind)

        def _compute(self) -> None:
            image = self._array("images").astype(np.float32)
            for name in self._engine._names("OUTPUT"):
                output = self._array(name)
                output[:] = np.resize(image, output.shape) * 2 + 1

    class ICudaEngine:
        __slots__ = ("_facts", "_logger")

        @property
        def num_io_tensors(self) -> int:
            return len(self._facts["tensors"])

        def get_tensor_name(self, index: int) -> str:
            return str(self._facts["tensors"][index]["name"])

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode[self._tensor(name)["mode"]]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(self._tensor(name)["shape"])

        def get_tensor_dtype(self, name: str) -> Any:
            return trt.DataType[self._tensor(name)["kind"]]

        def get_tensor_location(self, name: str) -> Any:
            return trt.TensorLocation[self._tensor(name).get("location", "DEVICE")]

        def get_tensor_format(self, name: str) -> Any:
            return trt.TensorFormat[self._tensor(name).get("format", "LINEAR")]

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            assert profile_index == 0
            assert self._tensor(name)["mode"] == "INPUT"
            return [tuple(shape) for shape in self._facts["profile"]]

        def create_execution_context(self) -> Any:
            if "create_execution_context" in trt.refusing:
                self._complain("out of memory")
                return None
            return _with(IExecutionContext, _engine=self, _shapes={}, _addresses={}, _profiler=None)

        def _tensor(self, name: str) -> Any:
            [tensor] = [tensor for tensor in self._facts["tensors"] if tensor["name"] == name]
            return tensor

        def _names(self, mode: str) -> list[str]:
            return [t["name"] for t in self._facts["tensors"] if t["mode"] == mode]

        def _complain(self, text: str) -> None:
            self._logger.log(ILogger.Severity.INFO, "this is no error")
            self._logger.log(ILogger.Severity.ERROR, text)

    class Runtime:
        __slots__ = ("DLA_core", "_logger")

        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, ILogger)
            assert logger._made
            self._logger = logger
            self.DLA_core = -1

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            assert isinstance(serialized_engine, bytes)
            engine = _with(ICudaEngine, _facts={}, _logger=self._logger)
            try:
                engine._facts = json.loads(serialized_engine)
            except ValueError:
                engine._complain("Magic tag does not match")
                return None
            if engine._facts["version"] != version:
                engine._complain("Version tag does not match")
                return None
            if engine._facts["gpu"].split()[0] != gpu.split()[0]:
                engine._complain("The engine plan file is generated on an incompatible device")
                return None
            assert self.DLA_core == engine._facts.get("dla", -1)
            return engine

    for kind in (ILogger, IProfiler, IExecutionContext, ICudaEngine, Runtime):
        setattr(trt, kind.__name__, kind)
    return trt


def _with(kind: Any, **state: Any) -> Any:
    """An object of a class that Python cannot make, only TensorRT."""
    made = kind.__new__(kind)
    for name, value in state.items():
        setattr(made, name, value)
    return made
