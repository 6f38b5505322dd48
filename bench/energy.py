"""What an image costs in joules: each file alone, since a meter sees the whole device."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.power import PowerMeter
from bench.results.schema import Energy
from bench.runtimes.base import Runtime

_IDLE_SECONDS = 2.0


def measure_energy(
    runtime: Runtime,
    meter: PowerMeter,
    seconds: float,
    idle_watts: float | None,
    stopped: Callable[[], bool],
) -> Energy:
    """Run ``runtime`` alone for ``seconds`` and divide what was drawn by the images.

    Args:
        runtime: entered.
        meter: of the whole device.
        seconds: the least time, after the meter has settled.
        idle_watts: what the meter shows at rest; None to look first.
        stopped: whether to end early.
    """
    if idle_watts is None:
        time.sleep(meter.settle_seconds)
        with meter.measured() as rest:
            time.sleep(_IDLE_SECONDS)
        idle_watts = rest.watts
    _run_for(runtime, meter.settle_seconds, stopped)
    with meter.measured() as drawn:
        calls = _run_for(runtime, seconds, stopped)
    images = calls * runtime.input_shape[0]
    return Energy(
        joules_per_image=drawn.joules / images,
        watts=drawn.watts,
        idle_watts=idle_watts,
        scope=meter.scope,
        images=images,
        seconds=drawn.seconds,
    )


def _run_for(runtime: Runtime, seconds: float, stopped: Callable[[], bool]) -> int:
    """How many calls there were: at least one."""
    end, calls = time.perf_counter() + seconds, 0
    while calls == 0 or (time.perf_counter() < end and not stopped()):
        runtime.infer()
        calls += 1
    return calls
