"""How a run measures; recorded with its result."""

from __future__ import annotations

from dataclasses import dataclass

from bench.errors import BenchError

_LEAST = {
    "threads": 1,
    "index": 0,
    "min_seconds": 0,
    "min_count": 1,
    "warmup_seconds": 0,
    "align": 1,
    "streams": 0,
    "stream_seconds": 0,
    "energy_seconds": 0,
}


@dataclass(frozen=True)
class Settings:
    """Times in seconds.

    ``threads``: of the runtime inside one operator. ``index``: of the GPU. ``shape``: of the input,
    for files that leave it open. ``align``: refuse channels that are no multiple of it.
    ``streams``: copies of each net that run side by side for throughput; 0 for no such
    measurement, which takes ``stream_seconds`` a file. ``images``: folder of real images for the
    end-to-end latency; None for none. ``energy_seconds``: how long each file runs alone where the
    device tells its power; 0 for no such measurement. ``cuda_graph``: let TensorRT launch all
    kernels as one graph.
    """

    device: str = "cpu"
    threads: int = 1
    index: int = 0
    min_seconds: float = 5.0
    min_count: int = 64
    warmup_seconds: float = 0.5
    seed: int = 0
    shape: list[int] | None = None
    align: int | None = None
    streams: int = 0
    stream_seconds: float = 3.0
    images: str | None = None
    energy_seconds: float = 5.0
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        """Refuse values that measure nothing."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise BenchError(f"'{name}' is {value}; the least is {least}.")
