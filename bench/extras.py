"""What is measured behind the interleaved loop: end to end, energy, throughput."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.end_to_end import Pipeline, measure_end_to_end
from bench.energy import measure_energy
from bench.entries import Entry
from bench.errors import BenchError
from bench.power import PowerMeter
from bench.results.schema import EndToEnd, Energy, Throughput
from bench.runtimes.base import Runtime
from bench.settings import Settings
from bench.throughput import measure_throughput

if TYPE_CHECKING:
    from bench.loop import ProgressCallback

_PERCENT = 100


@dataclass
class Extras:
    """By label, as far as it was asked for and ended. ``faults``: what went wrong instead."""

    end_to_end: dict[str, EndToEnd] = field(default_factory=dict)
    energy: dict[str, Energy] = field(default_factory=dict)
    throughput: dict[str, Throughput] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def keeping(self, what: str) -> Iterator[None]:
        """A fault inside the block must not lose what was measured before it."""
        try:
            yield
        except BenchError as error:
            self.faults.append(f"{what} could not be measured: {error}")


def extra_seconds(settings: Settings, files: int, meter: PowerMeter | None) -> float:
    """About how long it all takes."""
    each = settings.stream_seconds if settings.streams else 0.0
    if settings.images is not None:
        each += settings.min_seconds / 2
    if meter is not None:
        each += settings.energy_seconds
    return files * each


def measure_extras(
    files: Mapping[str, Entry],
    runtimes: Mapping[str, Runtime],
    pipelines: Mapping[str, Pipeline],
    meter: PowerMeter | None,
    settings: Settings,
    stopped: Callable[[], bool],
    progress: ProgressCallback,
) -> Extras:
    """End to end for all ``pipelines`` in turn, then energy and throughput of each file alone.

    Args:
        files: by label.
        runtimes: the same, entered.
        pipelines: for the end-to-end latency; empty for none.
        meter: of the device; None for no energy.
        settings: how to measure.
        stopped: whether to end early.
        progress: is told percent points, 100 in all.
    """
    extras = Extras()
    if pipelines:
        with extras.keeping("the latency from image to boxes"):
            measured = measure_end_to_end(pipelines, settings, stopped)
            extras.end_to_end = {} if stopped() else measured
    idle, reached = None, 0
    for place, (label, runtime) in enumerate(runtimes.items(), start=1):
        if meter is not None and settings.energy_seconds and not stopped():
            with extras.keeping(f"the energy of '{label}'"):
                found = measure_energy(runtime, meter, settings.energy_seconds, idle, stopped)
                if not stopped():  # one that was cut short says little
                    extras.energy[label], idle = found, found["idle_watts"]
        if settings.streams and not stopped():
            with extras.keeping(f"the throughput of '{label}'"):
                streamed = measure_throughput(files[label], settings, stopped)
                if not stopped():
                    extras.throughput[label] = streamed
        percent = _PERCENT * place // len(runtimes)
        progress(percent - reached)
        reached = percent
    return extras
