"""OpenVINO on the CPU: one request, one fixed random input, tuned for latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.optional import require
from bench.runtimes.inputs import (
    fill,
    fixed_shape,
    input_count_error,
    input_type_error,
    random_input,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEVICE = "CPU"
_INPUT_TYPES = {"f32": np.float32, "f16": np.float16}
_COMPUTING = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
_INSIDE_ANOTHER = "undef"
_INT8 = ("_i8", "_u8")  # "brgconv_avx512_1x1_I8": the kernel, then what it computes in
_SUFFIXES = (".onnx", ".xml")


class OpenVinoCpu:
    """An ``.onnx`` file or an IR (``.xml`` with its ``.bin``) in OpenVINO's CPU plugin."""

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        shape: Sequence[int] | None = None,
        seed: int = 0,
        profiled: bool = False,
    ) -> None:
        """Name the file; nothing is read before the ``with`` block.

        Args:
            path: the ONNX file or the IR's ``.xml``.
            threads: threads inside an operator, >= 1; one request at a time.
            shape: of the input, needed only where the file leaves dimensions open.
            seed: of the random input in [0, 1).
            profiled: let each operator be timed; that slows all of them down.
        """
        self._path = path
        self._threads = threads
        self._shape = shape
        self._seed = seed
        self._profiled = profiled
        self._request: Any = None
        self._values: NDArray[Any] = np.empty(0)
        self._output_count = 0
        self._input_shape: tuple[int, ...] = ()
        self._runtime = ""
        self._float_type = ""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the one input, the batch first. Known once entered."""
        return self._input_shape

    @property
    def runtime(self) -> str:
        """Name and version. Known once entered."""
        return self._runtime

    @property
    def device(self) -> str:
        """The CPU."""
        return _DEVICE

    @property
    def notes(self) -> list[str]:
        """None."""
        return []

    @property
    def float_type(self) -> str:
        """What float layers compute in: bf16 or f16 where the CPU has it, else f32."""
        return self._float_type

    def __enter__(self) -> OpenVinoCpu:
        """Compile the file and bind its input.

        Raises:
            BenchError: openvino is missing, the file cannot be read or compiled, its input is not
                fixed, or another device than the CPU is active.
        """
        openvino = require("openvino", "openvino")
        model = self._read(openvino)
        values = self._fix_input(model)
        try:
            compiled = openvino.Core().compile_model(model, _DEVICE, self._settings())
        except Exception as error:  # openvino's exceptions share no base of their own
            raise BenchError(f"'{self._path}' cannot be compiled by OpenVINO: {error}") from error
        active = list(compiled.get_property("EXECUTION_DEVICES"))
        if active != [_DEVICE]:
            raise BenchError(f"'{self._path}' was to run on {_DEVICE}, but OpenVINO took {active}.")
        request = compiled.create_infer_request()
        entry = openvino.Tensor(values)
        request.set_input_tensor(entry)
        self._values = entry.data  # the tensor's own memory, not that of ``values``
        self._output_count = len(compiled.outputs)
        self._runtime = f"OpenVINO {str(openvino.__version__).split('-')[0]}"
        self._float_type = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self._request = request
        return self

    def __exit__(self, *exc: object) -> None:
        """Let the request go."""
        self._request = None

    def infer(self) -> None:
        """Run one batch.

        Raises:
            BenchError: the request fails on this input.
        """
        if self._request is None:
            raise RuntimeError("infer() outside of the with block")
        try:
            self._request.infer()
        except Exception as error:  # as above
            raise BenchError(
                f"'{self._path}' fails in OpenVINO on an input of shape "
                f"{list(self._input_shape)}: {error}"
            ) from error

    def feed(self, values: NDArray[Any]) -> None:
        """Take other input values, float32 of ``input_shape``."""
        fill(self._values, values)

    def parts_ns(self) -> Mapping[str, int]:
        """Nothing: input and output lie where they are computed."""
        return {}

    def outputs(self) -> list[NDArray[Any]]:
        """What the last ``infer`` gave."""
        return [self._request.get_output_tensor(i).data for i in range(self._output_count)]

    def node_times(self) -> dict[str, float]:
        """Operator -> milliseconds of the last ``infer``, of a ``profiled`` one."""
        return {
            entry.node_name: entry.real_time.total_seconds() * 1000
            for entry in self._request.get_profiling_info()
        }

    def ran_int8(self) -> dict[str, bool]:
        """Convolutions and products of a ``profiled`` ``infer``: whether they ran on integers."""
        return {
            entry.node_name: entry.exec_type.lower().endswith(_INT8)
            for entry in self._request.get_profiling_info()
            if entry.node_type in _COMPUTING and entry.exec_type != _INSIDE_ANOTHER
        }

    def _settings(self) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "PERF_COUNT": self._profiled,
        }

    def _read(self, openvino: Any) -> Any:
        _check_file(self._path)
        try:
            return openvino.Core().read_model(str(self._path))
        except Exception as error:  # as above
            raise BenchError(
                f"'{self._path}' cannot be loaded by OpenVINO {openvino.__version__}: {error} If "
                "the file is truncated or damaged, export it again; if it is newer than this "
                "openvino, install a newer one."
            ) from error

    def _fix_input(self, model: Any) -> Any:
        """The values to run on; where the file leaves sizes open, they are set in ``model``."""
        inputs = model.inputs
        if len(inputs) != 1:
            raise input_count_error([entry.any_name for entry in inputs], self._path)
        [entry] = inputs
        shape = entry.partial_shape
        declared = [size.get_length() if size.is_static else str(size) for size in shape]
        self._input_shape = fixed_shape(entry.any_name, declared, self._shape, self._path)
        kind = entry.element_type.get_type_name()
        if kind not in _INPUT_TYPES:
            raise input_type_error(entry.any_name, kind, list(_INPUT_TYPES), self._path)
        if not shape.is_static:
            model.reshape(list(self._input_shape))
        return random_input(self._input_shape, _INPUT_TYPES[kind], self._seed)


def _check_file(path: Path) -> None:
    if path.suffix not in _SUFFIXES:
        raise BenchError(f"'{path}' is neither {' nor '.join(_SUFFIXES)}, which OpenVINO reads.")
    if not path.is_file():
        raise BenchError(f"'{path}' does not exist. Export it first, or correct the path.")
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise BenchError(f"'{path.with_suffix('.bin')}' is missing: an IR is two files.")
