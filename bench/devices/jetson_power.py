"""What tells the power of a Jetson: the kernel, else jetson-stats, else tegrastats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from bench.devices.jtop import has_jtop, jtop_looks
from bench.devices.rails import find_rails, total_of, total_watts
from bench.devices.tegrastats import tegrastats
from bench.power import SampledMeter

if TYPE_CHECKING:
    from bench.devices.commands import Find

    ReadRails = Callable[[], Mapping[str, float | None]]
    Source = Callable[[], AbstractContextManager[ReadRails]]

_SETTLE_SECONDS = 1.0  # Orin's chips average over 0.43 s


def jetson_meter(root: Path, find: Find) -> SampledMeter | None:
    """The first of them that tells all rails of the total."""
    command = find("tegrastats")
    sources: list[Source] = [lambda: nullcontext(kernel_rails(root))]
    if has_jtop():
        sources.append(_jtop_rails)
    if command is not None:
        sources.append(lambda: _tegrastats_rails(str(command)))
    meters = (_meter(source) for source in sources)
    return next((meter for meter in meters if meter is not None), None)


def kernel_rails(root: Path) -> ReadRails:
    """Reads, of the rails that the kernel shows, those that add up to the total."""
    rails = find_rails(root)
    total = total_of(rails)
    parts = {name: rails[name] for name in total[0]} if total else {}
    return lambda: {name: read() for name, read in parts.items()}


def _meter(source: Source) -> SampledMeter | None:
    with source() as read:
        rails = read()
    total = total_of(rails)
    if total is None or total_watts(rails) is None:
        return None

    @contextmanager
    def opened() -> Iterator[Callable[[], float | None]]:
        with source() as read:
            yield lambda: total_watts(read())

    return SampledMeter(total[1], opened, settle_seconds=_SETTLE_SECONDS)


@contextmanager
def _jtop_rails() -> Iterator[ReadRails]:
    with jtop_looks() as latest:
        yield lambda: look.milliwatts if (look := latest()) else {}


@contextmanager
def _tegrastats_rails(command: str) -> Iterator[ReadRails]:
    with tegrastats(command) as latest:
        yield lambda: stats.milliwatts if (stats := latest()) else {}
