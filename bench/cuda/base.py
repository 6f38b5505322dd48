"""What the bench asks of CUDA, whoever provides it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bench.errors import BenchError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

NON_BLOCKING = 1  # a stream that never waits for the default one
TEGRA = "On a Jetson both come with JetPack: sudo apt install nvidia-jetpack"


class CudaError(BenchError):
    """A CUDA call failed; the message names the call and what CUDA says of it."""


class Pinned(NamedTuple):
    """An array in page-locked host memory, which lives as long as somebody holds the array."""

    values: NDArray[Any]
    address: int  # asking the array each time takes longer than queueing a copy


class Cuda(Protocol):
    """One GPU and one stream of its own, on which all copies, launches and events are queued.

    It is current in the thread that made it; see ``current`` for others. Every method raises
    ``CudaError`` where CUDA reports a fault.
    """

    @property
    def name(self) -> str:
        """Name of the GPU."""

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability, such as (8, 7)."""

    @property
    def stream(self) -> int:
        """The stream's handle."""

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU current inside the block, in a thread that did not make this object."""

    def pinned(self, shape: Sequence[int], kind: DTypeLike) -> Pinned:
        """Room for an array in host memory."""

    def buffer(self, size: int) -> int:
        """Address of ``size`` bytes on the device, freed by ``close``."""

    def copy_to_device(self, address: int, source: Pinned) -> None:
        """Queue a copy."""

    def copy_to_host(self, target: Pinned, address: int) -> None:
        """Queue a copy."""

    def event(self) -> Any:
        """An event that tells time."""

    def record(self, event: Any) -> None:
        """Queue the event."""

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that have happened."""

    def synchronize(self) -> None:
        """Wait until all that is queued is done."""

    def graph_of(self, call: Callable[[], object]) -> Callable[[], None]:
        """Record what ``call`` queues, to be queued again as one graph by what is returned.

        ``call`` runs once, but nothing of it is executed. If that fails, the stream works on.
        """

    def close(self) -> None:
        """Give back what was taken; only pinned arrays live on."""
