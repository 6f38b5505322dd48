"""What the bench asks of a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOST_TO_DEVICE, COMPUTE, DEVICE_TO_HOST = PARTS = ("host_to_device", "compute", "device_to_host")


class Runtime(Protocol):
    """One artifact, ready to run inside the ``with`` block. Entering it may raise BenchError.

    Until ``feed`` is called it runs on random values in [0, 1). Any thread may call ``infer``,
    but one at a time.
    """

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the one input, the batch first. Known once entered."""

    @property
    def runtime(self) -> str:
        """Name and version of the runtime, and its provider where it has several."""

    @property
    def device(self) -> str:
        """What computes: ``CPU`` or the name of the GPU. Known once entered."""

    @property
    def float_type(self) -> str:
        """What float layers compute in, such as f32 or bf16. Known once entered."""

    @property
    def notes(self) -> list[str]:
        """What a reader of its times has to know, such as operators that fell back to the CPU."""

    def __enter__(self) -> Runtime: ...

    def __exit__(self, *exc: object) -> None: ...

    def feed(self, values: NDArray[Any]) -> None:
        """Take other input values (float32 of ``input_shape``), in host memory.

        Raises:
            ValueError: they have another shape.
        """

    def infer(self) -> None:
        """Run one batch to its end: the outputs lie in host memory when this returns."""

    def parts_ns(self) -> Mapping[str, int]:
        """Nanoseconds of the last ``infer`` by part (``PARTS``); empty where it cannot tell."""

    def outputs(self) -> list[NDArray[Any]]:
        """What the last ``infer`` gave, in the file's order. Valid until the next one."""
