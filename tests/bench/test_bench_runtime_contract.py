"""Every name of a foreign library that the bench's runtimes use, listed once.

The list is compared with the source, so that it is whole; with the libraries that are installed, so
that it is true; and with the imitations that other tests run on, so that these are no wider.

On a machine without TensorRT the official bindings can be imported with an empty library in place
of ``libnvinfer``: done by hand for 8.6.1, 10.3.0 and 11.4.0. PyCUDA's names were read from the
sources of 2026.1. PyTorch stands in ``tests/test_bench_torch.py``: importing it takes seconds.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda, fake_pycuda
from fake_tensorrt_runtime import fake

from bench.cuda.base import CudaError
from bench.cuda.library import load_cudart

BENCH = Path(__file__).parents[2] / "bench"


@dataclass(frozen=True)
class Use:
    """What the files use of an ``owner`` in ``module``, called ``variables`` there.

    ``newer``: members that old releases lack, asked for with hasattr.
    """

    module: str
    owner: str
    variables: str
    files: str
    members: str
    newer: str = ""


TRT = "runtimes/tensorrt_*.py profile/tensorrt_times.py"
ORT = "runtimes/onnxruntime*.py profile/onnxruntime_times.py"
PYCUDA = "cuda/pycuda_driver.py cuda/choose.py"
USES = [
    Use(
        "tensorrt",
        "",
        "trt",
        TRT,
        "ILogger IProfiler Runtime TensorFormat TensorIOMode TensorLocation __version__",
    ),
    Use("tensorrt", "ILogger", "trt.ILogger", TRT, "Severity __init__"),
    Use("tensorrt", "ILogger.Severity", "severity", TRT, "ERROR INTERNAL_ERROR"),
    Use("tensorrt", "IProfiler", "trt.IProfiler", TRT, "__init__"),
    Use("tensorrt", "TensorLocation", "trt.TensorLocation", TRT, "DEVICE"),
    Use("tensorrt", "TensorFormat", "trt.TensorFormat", TRT, "LINEAR"),
    Use(
        "tensorrt",
        "Runtime",
        "runtime",
        "runtimes/tensorrt_load.py",
        "DLA_core deserialize_cuda_engine",
    ),
    Use(
        "tensorrt",
        "ICudaEngine",
        "engine",
        "runtimes/tensorrt_*.py",
        "create_execution_context get_tensor_dtype get_tensor_format get_tensor_location "
        "get_tensor_mode get_tensor_name get_tensor_profile_shape get_tensor_shape num_io_tensors",
    ),
    Use(
        "tensorrt",
        "IExecutionContext",
        "context",
        TRT,
        "execute_async_v3 get_tensor_shape infer_shapes profiler set_input_shape "
        "set_tensor_address",
    ),
    Use(
        "pycuda.driver",
        "",
        "driver self.driver",
        PYCUDA,
        "Context Device Error Event Stream init mem_alloc memcpy_dtoh_async memcpy_htod_async "
        "pagelocked_empty",
    ),
    Use(
        "pycuda.driver",
        "Device",
        "device",
        PYCUDA,
        "compute_capability name retain_primary_context",
    ),
    Use("pycuda.driver", "Context", "self._context self.driver.Context", PYCUDA, "pop push"),
    Use("pycuda.driver", "Stream", "self._stream", PYCUDA, "handle synchronize"),
    Use("pycuda.driver", "Event", "event end", PYCUDA, "record time_since"),
    Use("pycuda.driver", "DeviceAllocation", "memory", PYCUDA, "free"),
    Use(
        "onnxruntime",
        "",
        "runtime",
        ORT,
        "ExecutionMode GraphOptimizationLevel InferenceSession OrtValue SessionOptions __file__ "
        "__version__ get_available_providers",
        newer="preload_dlls",
    ),
    Use("onnxruntime", "ExecutionMode", "runtime.ExecutionMode", ORT, "ORT_SEQUENTIAL"),
    Use(
        "onnxruntime",
        "GraphOptimizationLevel",
        "runtime.GraphOptimizationLevel",
        ORT,
        "ORT_ENABLE_ALL",
    ),
    Use("onnxruntime", "OrtValue", "runtime.OrtValue", ORT, "ortvalue_from_numpy"),
    Use("onnxruntime", "OrtValue", "self._input", ORT, "update_inplace"),
    Use("onnxruntime", "OrtValue", "value", ORT, "numpy"),
    Use(
        "onnxruntime",
        "InferenceSession",
        "session",
        ORT,
        "end_profiling get_inputs get_outputs get_provider_options get_providers io_binding run "
        "run_with_iobinding",
    ),
    Use(
        "onnxruntime",
        "IOBinding",
        "binding self._binding",
        ORT,
        "bind_ortvalue_input bind_output clear_binding_outputs get_outputs",
    ),
    Use("onnxruntime", "NodeArg", "entry output", ORT, "name shape type"),
    Use(
        "onnxruntime",
        "SessionOptions",
        "options",
        ORT,
        "add_session_config_entry enable_profiling execution_mode graph_optimization_level "
        "inter_op_num_threads intra_op_num_threads log_severity_level profile_file_prefix",
    ),
    Use("openvino", "", "openvino", "runtimes/openvino_cpu.py", "Core Tensor __version__"),
    Use("openvino", "Model", "model", "runtimes/openvino_cpu.py", "inputs reshape"),
    Use(
        "openvino",
        "CompiledModel",
        "compiled",
        "runtimes/openvino_cpu.py",
        "create_infer_request get_property outputs",
    ),
    Use(
        "openvino",
        "InferRequest",
        "request self._request",
        "runtimes/openvino_cpu.py",
        "get_output_tensor get_profiling_info infer set_input_tensor",
    ),
]
IDS = [f"{use.module}-{use.owner}-{use.variables.split()[0]}" for use in USES]


def used(use: Use) -> set[str]:
    """Attributes of the variables in the files."""
    names = use.variables.split()
    files = [file for pattern in use.files.split() for file in BENCH.glob(pattern)]
    assert files
    return {
        node.attr
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in names
    }


@pytest.mark.parametrize("use", USES, ids=IDS)
def test_the_list_is_whole(use: Use) -> None:
    assert used(use) == {*use.members.split(), *use.newer.split()}


@pytest.mark.parametrize("use", USES, ids=IDS)
def test_installed_libraries_have_what_is_listed(use: Use) -> None:
    module = pytest.importorskip(use.module)
    owner = reduce(getattr, use.owner.split("."), module) if use.owner else module
    for member in use.members.split():
        assert hasattr(owner, member), f"{use.module} {use.owner}.{member}"


def fake_members(module: Any) -> Iterator[tuple[str, str, Any]]:
    """Class, name and value of all that an imitation lets be used."""
    for name, kind in vars(module).items():
        if isinstance(kind, type) and not issubclass(kind, enum.Enum):
            for member, value in vars(kind).items():
                if not member.startswith("_"):
                    yield name, member, value


def signatures_of(function: Any) -> list[list[tuple[str, bool]]]:
    """Parameters of a function and whether they may be left out, each overload apart.

    What pybind11 made tells them in its docstring alone.
    """
    if inspect.isfunction(function):
        parameters = inspect.signature(function).parameters.values()
        return [[(p.name, p.default is not p.empty) for p in parameters if p.name != "self"]]
    return [
        [
            (name, " = " in kind)
            for name, kind in re.findall(r"(\w+): (.*?)(?=, \w+: |$)", signature)
            if name != "self"
        ]
        for signature in re.findall(r"^(?:\d\. )?\w+\((.*)\) ->", function.__doc__, re.MULTILINE)
    ]


def fits(ours: list[tuple[str, bool]], theirs: list[tuple[str, bool]]) -> bool:
    """Whether a call that suits ours suits theirs."""
    rest = theirs[len(ours) :]
    return ours == theirs[: len(ours)] and all(optional for _, optional in rest)


def test_the_imitation_of_tensorrt_is_no_wider_than_the_installed_bindings() -> None:
    real = pytest.importorskip("tensorrt")
    for owner, member, ours in fake_members(fake(lambda stream, call: True)):
        theirs = getattr(getattr(real, owner), member)
        if inspect.isfunction(ours):
            [call], overloads = signatures_of(ours), signatures_of(theirs)
            assert any(fits(call, known) for known in overloads), f"{owner}.{member}: {overloads}"


def test_the_imitation_of_pycuda_is_no_wider_than_the_installed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = pytest.importorskip("pycuda.driver")
    for owner, member, _ in fake_members(fake_pycuda(FakeCuda(monkeypatch))):
        assert hasattr(getattr(real, owner), member), f"{owner}.{member}"


def test_the_installed_cuda_runtime_has_every_function() -> None:
    try:
        load_cudart()
    except CudaError as error:
        pytest.skip(str(error))
