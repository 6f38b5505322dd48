"""ONNX Runtime on the CPU, or on a GPU by CUDA or TensorRT: one session, bound buffers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.cuda.names import gpu_name
from bench.errors import BenchError
from bench.optional import require
from bench.runtimes.inputs import (
    fill,
    fixed_shape,
    input_count_error,
    input_type_error,
    random_input,
)
from bench.runtimes.onnxruntime_providers import (
    CPU,
    TENSORRT,
    check_active,
    check_available,
    library_fault,
    outside,
    suffix_of,
    wanted_providers,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INPUT_TYPES = {"tensor(float)": (np.float32, "f32"), "tensor(float16)": (np.float16, "f16")}


class OnnxRuntime:
    """An ``.onnx`` file in one of ONNX Runtime's providers, all graph optimisations on.

    Inputs and outputs lie in ordinary host memory; what a GPU provider copies is part of its time.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        shape: Sequence[int] | None = None,
        seed: int = 0,
        provider: str = CPU,
        index: int = 0,
    ) -> None:
        """Name the file; nothing is read before the ``with`` block.

        Args:
            path: the ONNX file.
            threads: threads inside an operator, >= 1; operators run one after another.
            shape: of the input, needed only where the file leaves dimensions open.
            seed: of the random input in [0, 1).
            provider: ``cpu``, ``cuda`` or ``tensorrt``.
            index: of the GPU.
        """
        self._path = path
        self._threads = threads
        self._shape = shape
        self._seed = seed
        self._provider = provider
        self._index = index
        self._run: Callable[[], object] | None = None
        self._binding: Any = None
        self._input: Any = None
        self._values: NDArray[Any] = np.empty(0)
        self._open_outputs = False
        self._output_names: list[str] = []
        self._runtime = self._float_type = ""
        self._notes: list[str] = []

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the one input, the batch first. Known once entered."""
        return self._values.shape

    @property
    def runtime(self) -> str:
        """Name, version and provider. Known once entered."""
        return self._runtime

    @property
    def device(self) -> str:
        """The CPU, or the GPU's name."""
        return "CPU" if self._provider == CPU else gpu_name(self._index)

    @property
    def notes(self) -> list[str]:
        """Operators that ran outside of the provider, and its float type if that is not plain."""
        return self._notes

    @property
    def float_type(self) -> str:
        """What float layers compute in: f32, but f16 in TensorRT, and where the input is f16."""
        return self._float_type

    def __enter__(self) -> OnnxRuntime:
        """Make the session and bind its buffers; on a GPU also run it once, to see where.

        Raises:
            BenchError: onnxruntime is missing or lacks the provider, the file cannot be read, its
                input is not fixed, or another provider is active than the one asked for.
        """
        runtime = require("onnxruntime")
        _check_file(self._path)
        check_available(runtime, self._provider)
        self._runtime = f"ONNX Runtime {runtime.__version__}{suffix_of(self._provider)}"
        if self._provider == CPU:
            self._bind(runtime, self._session(runtime, session_options(runtime, self._threads)))
        else:
            self._bind_watched(runtime)
        return self

    def __exit__(self, *exc: object) -> None:
        """Let the session go."""
        self._run = self._binding = self._input = None

    def infer(self) -> None:
        """Run one batch.

        Raises:
            BenchError: the session fails on this input.
        """
        if self._run is None:
            raise RuntimeError("infer() outside of the with block")
        try:
            self._run()
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise BenchError(
                f"'{self._path}' fails in ONNX Runtime on an input of shape "
                f"{list(self.input_shape)}: {error}"
            ) from error

    def feed(self, values: NDArray[Any]) -> None:
        """Take other input values, float32 of ``input_shape``."""
        fill(self._values, values)
        self._input.update_inplace(self._values)
        if self._open_outputs:  # other values may give other sizes
            self._bind_outputs()

    def parts_ns(self) -> Mapping[str, int]:
        """Nothing: it does not tell copies from computing."""
        return {}

    def outputs(self) -> list[NDArray[Any]]:
        """What the last ``infer`` gave."""
        return [value.numpy() for value in self._binding.get_outputs()]

    def _session(self, runtime: Any, options: Any) -> Any:
        wanted = wanted_providers(self._provider, self._index, self._path)
        try:
            session = runtime.InferenceSession(
                str(self._path), options, providers=wanted, enable_fallback=0
            )
        except Exception as error:  # as above
            raise self._load_error(runtime, error) from error
        check_active(runtime, session, self._provider, self._path)
        return session

    def _load_error(self, runtime: Any, error: Exception) -> BenchError:
        remedy = library_fault(runtime, self._provider) or (
            "If the file is truncated or damaged, export it again; if it is newer than this "
            "onnxruntime, install a newer one."
        )
        return BenchError(f"'{self._path}' cannot be loaded by {self._runtime}: {error} {remedy}")

    def _bind(self, runtime: Any, session: Any) -> None:
        entry = _only_input(session, self._path)
        if entry.type not in _INPUT_TYPES:
            raise input_type_error(entry.name, entry.type, list(_INPUT_TYPES), self._path)
        kind, self._float_type = _INPUT_TYPES[entry.type]
        if self._provider == TENSORRT:  # which is let into it, as engines are
            self._float_type = "f16"
        shape = fixed_shape(entry.name, entry.shape, self._shape, self._path)
        self._values = random_input(shape, kind, self._seed)
        self._input = runtime.OrtValue.ortvalue_from_numpy(self._values)
        self._output_names = [output.name for output in session.get_outputs()]
        self._open_outputs = any(
            not isinstance(size, int) for output in session.get_outputs() for size in output.shape
        )
        binding = self._binding = session.io_binding()
        binding.bind_ortvalue_input(entry.name, self._input)
        self._bind_outputs()
        self._run = lambda: session.run_with_iobinding(binding)

    def _bind_outputs(self) -> None:
        """The first run allocates the outputs, the later ones write into them."""
        self._binding.clear_binding_outputs()
        for name in self._output_names:
            self._binding.bind_output(name, "cpu")

    def _bind_watched(self, runtime: Any) -> None:
        """Profile the first run, which tells where each operator ran."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            options = session_options(runtime, self._threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "placement")
            session = self._session(runtime, options)
            self._bind(runtime, session)
            self.infer()
            profile = Path(session.end_profiling())
            self._notes = outside(profile, self._provider, self._path)
        cuda = session.get_provider_options().get("CUDAExecutionProvider", {})
        if self._float_type == "f32" and cuda.get("use_tf32") == "1":
            self._notes.append("float layers may run in TF32, the CUDA provider's default")


def session_options(runtime: Any, threads: int) -> Any:
    """How every session of the bench runs: all optimisations, operators one after another."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Else the threads of one session spin on while the next one is being timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _check_file(path: Path) -> None:
    if path.suffix != ".onnx":
        raise BenchError(f"'{path}' is not an .onnx file, the one kind that ONNX Runtime reads.")
    if not path.is_file():
        raise BenchError(f"'{path}' does not exist. Export it first, or correct the path.")


def _only_input(session: Any, path: Path) -> Any:
    entries = session.get_inputs()
    if len(entries) != 1:
        raise input_count_error([entry.name for entry in entries], path)
    return entries[0]
