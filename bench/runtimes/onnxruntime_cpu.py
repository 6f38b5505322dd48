"""ONNX Runtime on the CPU: one session, one fixed random input, bound buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.optional import require
from bench.runtimes.inputs import fixed_shape, input_count_error, input_type_error, random_input

_PROVIDER = "CPUExecutionProvider"
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeCpu:
    """An ``.onnx`` file in ONNX Runtime's CPU provider, all graph optimisations on."""

    def __init__(
        self, path: Path, threads: int = 1, shape: Sequence[int] | None = None, seed: int = 0
    ) -> None:
        """Name the file; nothing is read before the ``with`` block.

        Args:
            path: the ONNX file.
            threads: threads inside an operator, >= 1; operators run one after another.
            shape: of the input, needed only where the file leaves dimensions open.
            seed: of the random input in [0, 1).
        """
        self._path = path
        self._threads = threads
        self._shape = shape
        self._seed = seed
        self._run: Callable[[], object] | None = None
        self._input_shape: tuple[int, ...] = ()
        self._runtime = ""

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
        return "CPU"

    @property
    def notes(self) -> list[str]:
        """None."""
        return []

    @property
    def float_type(self) -> str:
        """What float layers compute in: the types of the file, f32 but for f16 files."""
        return "f32"

    def __enter__(self) -> OnnxRuntimeCpu:
        """Make the session and bind its buffers.

        Raises:
            BenchError: onnxruntime is missing, the file cannot be read, its input is not fixed, or
                another provider than the CPU's is active.
        """
        runtime = require("onnxruntime")
        session = self._session(runtime)
        entry = _only_input(session, self._path)
        if entry.type not in _INPUT_TYPES:
            raise input_type_error(entry.name, entry.type, list(_INPUT_TYPES), self._path)
        self._input_shape = fixed_shape(entry.name, entry.shape, self._shape, self._path)
        binding = session.io_binding()
        values = random_input(self._input_shape, _INPUT_TYPES[entry.type], self._seed)
        binding.bind_ortvalue_input(entry.name, runtime.OrtValue.ortvalue_from_numpy(values))
        for output in session.get_outputs():
            # The first run allocates the output, the later ones write into it.
            binding.bind_output(output.name, "cpu")
        self._runtime = f"ONNX Runtime {runtime.__version__}"
        self._run = lambda: session.run_with_iobinding(binding)
        return self

    def __exit__(self, *exc: object) -> None:
        """Let the session go."""
        self._run = None

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
                f"{list(self._input_shape)}: {error}"
            ) from error

    def feed(self, values: NDArray[Any]) -> None:
        """Take other input values, float32 of ``input_shape``."""
        raise NotImplementedError

    def parts_ns(self) -> Mapping[str, int]:
        """Nothing: input and output lie where they are computed."""
        return {}

    def outputs(self) -> list[NDArray[Any]]:
        """What the last ``infer`` gave."""
        raise NotImplementedError

    def _session(self, runtime: Any) -> Any:
        _check_file(self._path)
        options = session_options(runtime, self._threads)
        try:
            session = runtime.InferenceSession(str(self._path), options, providers=[_PROVIDER])
        except Exception as error:  # as above
            raise BenchError(
                f"'{self._path}' cannot be loaded by ONNX Runtime {runtime.__version__}: {error} "
                "If the file is truncated or damaged, export it again; if it is newer than this "
                "onnxruntime, install a newer one."
            ) from error
        _check_provider(session.get_providers(), self._path)
        return session


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


def _check_provider(active: Sequence[str], path: Path) -> None:
    if list(active) != [_PROVIDER]:
        raise BenchError(
            f"'{path}' was to run in {_PROVIDER}, but ONNX Runtime made {list(active)} active; "
            "its times would not be the CPU's. Reinstall onnxruntime in a clean environment."
        )


def _only_input(session: Any, path: Path) -> Any:
    entries = session.get_inputs()
    if len(entries) != 1:
        raise input_count_error([entry.name for entry in entries], path)
    return entries[0]
