"""The shape of a bench result, schema 2: plain dicts, ready for ``json.dumps``.

``docs/bench.md`` explains it to readers, ``bench.results.files`` reads and checks it. Times are
milliseconds, raw samples nanoseconds, energies joules.
"""

from __future__ import annotations

from typing import Any

try:  # pydantic reads this one before Python 3.12
    from typing_extensions import TypedDict
except ImportError:  # on a bare board nobody asks pydantic
    from typing import TypedDict  # type: ignore[assignment]

SCHEMA = 2


class Latency(TypedDict):
    """Milliseconds of one batch, ``cv`` a share. None: too few samples for that percentile."""

    p50: float
    p90: float | None
    p99: float | None
    mean: float
    cv: float
    count: int


class EndToEnd(TypedDict):
    """From an image's pixels in memory to its boxes: letterbox, inference, decode with NMS.

    ``steps_ms`` are medians by step. ``boxes`` is how many objects an image gave on average, since
    NMS takes the longer the more there are.
    """

    latency_ms: Latency
    steps_ms: dict[str, float]
    images: int
    boxes: float


class Throughput(TypedDict):
    """``streams`` copies of the net side by side, each with ``threads`` threads."""

    batch: int
    streams: int
    threads: int
    images_per_second: float
    images: int
    seconds: float


class Energy(TypedDict):
    """What one image costs while this file runs alone. ``scope``: what the meter sees.

    ``idle_watts`` is what it showed before anything ran, and is part of ``watts``.
    """

    joules_per_image: float
    watts: float
    idle_watts: float
    scope: str
    images: int
    seconds: float


class Row(TypedDict):
    """One file. ``fps`` is images/s of inference alone; ``speedup`` is against the first row.

    ``runtime`` is its name and version, ``device`` what computes (``CPU`` or the GPU's name),
    ``float_type`` what layers that are not INT8 compute in. ``source_sha256`` is the hash of the
    ONNX file that an engine was built of. ``parts_ms`` splits the latency where the runtime can:
    ``host_to_device``, ``compute``, ``device_to_host``. ``map`` is split -> ``map50`` and
    ``map50_95`` of this very file, empty where nobody measured it.
    """

    file: str
    label: str
    runtime: str
    device: str
    float_type: str
    sha256: str
    source_sha256: str | None
    bytes: int
    input: list[int]
    latency_ms: Latency
    parts_ms: dict[str, Latency]
    fps: float
    speedup: float
    speedup_ci: list[float]
    end_to_end: EndToEnd | None
    throughput: Throughput | None
    energy: Energy | None
    map: dict[str, dict[str, float]]
    notes: list[str]


class DeviceReport(TypedDict):
    """The device: what it is, its state before and after, and what was seen in between.

    ``trace`` holds one entry a look: ``seconds`` since the loop began, and named numbers such as
    ``gpu_mhz`` or ``soc_c``.
    """

    name: str
    facts: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    trace: list[dict[str, Any]]


class BenchResult(TypedDict):
    """All rows of one interleaved run.

    ``complete`` is False where it was stopped before its time: what was measured until then is
    there. ``created`` is UTC, ISO 8601. ``host`` is the board, where it was reached over SSH.
    ``samples_ns`` maps each label to its raw latencies in the order of the rounds, ``parts_ns``
    to those of its parts.
    """

    schema: int
    complete: bool
    created: str
    host: str | None
    machine: dict[str, Any]
    device: DeviceReport
    settings: dict[str, Any]
    interference: dict[str, float | None]
    warnings: list[str]
    rows: list[Row]
    samples_ns: dict[str, list[int]]
    parts_ns: dict[str, dict[str, list[int]]]
