"""What the bench asks of a runtime."""

from __future__ import annotations

from typing import Protocol


class Runtime(Protocol):
    """One artifact, ready to run inside the ``with`` block. Entering it may raise BenchError."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the one input, the batch first. Known once entered."""

    @property
    def runtime(self) -> str:
        """Name and version of the runtime. Known once entered."""

    @property
    def float_type(self) -> str:
        """What float layers compute in, such as f32 or bf16. Known once entered."""

    def __enter__(self) -> Runtime: ...

    def __exit__(self, *exc: object) -> None: ...

    def infer(self) -> None:
        """Run one batch to its end: the outputs lie in host memory when this returns."""
