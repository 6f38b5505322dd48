"""PyTorch: a module as it is, or a TorchScript file, on the CPU or a GPU."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError
from bench.optional import require
from bench.runtimes.base import PARTS
from bench.runtimes.inputs import fill, random_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NS_PER_MS = 1e6


class TorchModule:
    """A net in eager PyTorch, float32, without gradients.

    On a GPU the input and the outputs lie in pinned host memory, and events on a stream of its own
    tell the parts apart.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        shape: Sequence[int] | None = None,
        seed: int = 0,
        gpu: int | None = None,
        load: Callable[[Path], Any] | None = None,
    ) -> None:
        """Name the file; nothing is read before the ``with`` block.

        Args:
            path: the file.
            threads: threads inside an operator, on the CPU.
            shape: of the input; no file of PyTorch says it.
            seed: of the random input in [0, 1).
            gpu: index of the GPU; None for the CPU.
            load: gives the module in ``path``; None reads TorchScript.
        """
        self._path = path
        self._threads = threads
        self._shape = shape
        self._seed = seed
        self._gpu = gpu
        self._load = load
        self._torch: Any = None
        self._device: Any = None
        self._threads_before = threads
        self._call: Callable[[], None] | None = None
        self._host: Any = None
        self._given: Any = None
        self._copies: list[Any] = []
        self._stream: Any = None
        self._events: list[Any] = []

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the one input, the batch first."""
        return tuple(self._shape or ())

    @property
    def runtime(self) -> str:
        """Name and version. Known once entered."""
        return f"PyTorch {str(self._torch.__version__).split('+')[0]}"

    @property
    def device(self) -> str:
        """The CPU, or the GPU's name."""
        return "CPU" if self._gpu is None else str(self._torch.cuda.get_device_name(self._device))

    @property
    def float_type(self) -> str:
        """As the module is: f32."""
        return "f32"

    @property
    def notes(self) -> list[str]:
        """TF32, where PyTorch may use it."""
        may = self._gpu is not None and self._torch.backends.cudnn.allow_tf32
        return ["convolutions may run in TF32, PyTorch's default"] if may else []

    def __enter__(self) -> TorchModule:
        """Load the module and give it its input.

        Raises:
            BenchError: torch or the GPU is missing, the file cannot be read, or nothing says the
                input's shape.
        """
        torch = self._torch = require("torch")
        if not self._path.is_file():
            raise BenchError(f"'{self._path}' does not exist. Export it first, or correct it.")
        if self._shape is None:
            raise BenchError(
                f"'{self._path}' does not say the size of its input, like all files of PyTorch. "
                "Give it: --shape 1,3,640,640"
            )
        if self._gpu is not None and self._gpu >= torch.cuda.device_count():
            raise BenchError(
                f"PyTorch {torch.__version__} sees {torch.cuda.device_count()} GPUs, so no GPU "
                f"{self._gpu}: install a PyTorch built for this machine's CUDA, or check nvidia-smi"
            )
        self._device = torch.device("cpu" if self._gpu is None else f"cuda:{self._gpu}")
        module = self._read().eval()
        values = torch.from_numpy(random_input(self._shape, "float32", self._seed))
        if self._gpu is None:
            self._host = values
            self._call = lambda: self._run_on_cpu(module)
        else:
            self._place(torch, module, values)
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        return self

    def __exit__(self, *exc: object) -> None:
        """Let the module go."""
        self._torch.set_num_threads(self._threads_before)
        self._call = self._given = None
        self._copies = []

    def infer(self) -> None:
        """Run one batch.

        Raises:
            BenchError: the module fails on this input.
        """
        if self._call is None:
            raise RuntimeError("infer() outside of the with block")
        try:
            with self._torch.inference_mode():
                self._call()
        except RuntimeError as error:  # what torch raises, out of memory included
            raise BenchError(
                f"'{self._path}' fails in {self.runtime} on an input of shape "
                f"{list(self.input_shape)}: {error}"
            ) from error

    def feed(self, values: NDArray[Any]) -> None:
        """Take other input values, float32 of ``input_shape``."""
        fill(self._host.numpy(), values)

    def parts_ns(self) -> Mapping[str, int]:
        """On a GPU the nanoseconds between events on its stream; else nothing."""
        return {
            part: round(start.elapsed_time(end) * _NS_PER_MS)
            for part, start, end in zip(PARTS, self._events, self._events[1:])
        }

    def outputs(self) -> list[NDArray[Any]]:
        """What the last ``infer`` gave: all tensors of it, however nested."""
        given = self._copies or self._tensors(self._given)
        return [tensor.numpy() for tensor in given]

    def _place(self, torch: Any, module: Any, values: Any) -> None:
        try:
            module, place = module.to(self._device), values.to(self._device)
            self._host = values.pin_memory()
            self._stream = torch.cuda.Stream(self._device)
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(len(PARTS) + 1)]
        except RuntimeError as error:  # what torch raises, out of memory included
            raise BenchError(
                f"'{self._path}' cannot be put on GPU {self._gpu} by {self.runtime}: {error}"
            ) from error
        self._call = lambda: self._run_on_gpu(module, place)

    def _run_on_cpu(self, module: Any) -> None:
        self._given = module(self._host)

    def _run_on_gpu(self, module: Any, place: Any) -> None:
        before, fed, computed, after = self._events
        with self._torch.cuda.stream(self._stream):
            before.record(self._stream)
            place.copy_(self._host, non_blocking=True)
            fed.record(self._stream)
            tensors = self._tensors(module(place))
            computed.record(self._stream)
            if [copy.shape for copy in self._copies] != [tensor.shape for tensor in tensors]:
                self._copies = [self._pinned_like(tensor) for tensor in tensors]
            for copy, tensor in zip(self._copies, tensors):
                copy.copy_(tensor, non_blocking=True)
            after.record(self._stream)
        self._stream.synchronize()

    def _pinned_like(self, tensor: Any) -> Any:
        return self._torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    def _tensors(self, given: Any) -> list[Any]:
        return list(_flattened(given, self._torch.Tensor))

    def _read(self) -> Any:
        if self._load is not None:
            return self._load(self._path)
        if self._path.suffix != ".torchscript":
            raise BenchError(f"'{self._path}' is no .torchscript file.")
        if importlib.util.find_spec("torchvision") is not None:
            require("torchvision")  # its operators may be in the file
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # new releases call TorchScript deprecated
                return self._torch.jit.load(str(self._path), map_location=self._device)
        except (RuntimeError, ValueError) as error:
            raise BenchError(
                f"'{self._path}' cannot be loaded by {self.runtime}: it is damaged, truncated or "
                f"no TorchScript. Export it again. ({str(error).strip().splitlines()[0]})"
            ) from error


def _flattened(given: Any, kind: type) -> Iterator[Any]:
    if isinstance(given, kind):
        yield given
    elif isinstance(given, Mapping):
        for value in given.values():
            yield from _flattened(value, kind)
    elif isinstance(given, (list, tuple)):
        for value in given:
            yield from _flattened(value, kind)
