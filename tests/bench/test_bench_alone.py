"""What is measured of each file alone: energy and throughput."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench_graphs import Conv, save_chain

import bench.energy
import bench.run
from bench.devices.cpu import CpuDevice
from bench.energy import measure_energy
from bench.entries import Entry, entries_of
from bench.power import Reading
from bench.run import bench_files
from bench.settings import Settings
from bench.throughput import measure_throughput

QUICK = Settings(min_seconds=0, min_count=1, warmup_seconds=0, energy_seconds=0.01)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 8)], shape=("batch", 3, 16, 16))


class Counted:
    """A runtime of four images a batch that counts its calls."""

    input_shape = (4, 3, 8, 8)

    def __init__(self) -> None:
        self.calls = 0

    def infer(self) -> None:
        self.calls += 1


class Meter:
    """One watt at rest, 3 J a call otherwise; keeps how often it was asked."""

    scope, settle_seconds = "all of it", 0.0

    def __init__(self, runtime: Counted | None = None) -> None:
        self.runtime = runtime
        self.blocks = 0

    @contextmanager
    def measured(self) -> Iterator[Reading]:
        reading, before = Reading(), self.runtime.calls if self.runtime else 0
        yield reading
        self.blocks += 1
        called = self.runtime.calls - before if self.runtime else 1
        reading.seconds, reading.joules = 2.0, 3.0 * called if called else 2.0


def never() -> bool:
    return False


def test_joules_are_shared_by_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.energy, "_IDLE_SECONDS", 0)
    runtime = Counted()
    energy = measure_energy(runtime, Meter(runtime), 0.01, None, never)  # type: ignore[arg-type]
    assert energy["joules_per_image"] == pytest.approx(3 / 4)
    assert energy["idle_watts"] == 1.0
    assert energy["images"] % 4 == 0
    assert energy["watts"] == pytest.approx(3.0 * (energy["images"] / 4) / 2)
    assert energy["scope"] == "all of it"


def test_the_machine_is_at_rest_once_and_a_stop_ends_a_run() -> None:
    runtime, meter = Counted(), Meter()
    energy = measure_energy(runtime, meter, 3600, 7.0, lambda: True)  # type: ignore[arg-type]
    assert energy["idle_watts"] == 7.0
    assert meter.blocks == 1
    assert energy["images"] == 4


def test_energy_of_every_file_where_the_device_tells(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter()

    class Metered(CpuDevice):
        def power_meter(self) -> Any:
            return meter

    monkeypatch.setattr(bench.run, "device_of", lambda *_: Metered())
    monkeypatch.setattr(bench.energy, "_IDLE_SECONDS", 0)
    told: list[int] = []
    settings = Settings(**{**vars(QUICK), "shape": [1, 3, 16, 16]})
    result = bench_files([net, net], settings, labels=["a", "b"], progress=told.append)
    assert [row["energy"] is not None for row in result["rows"]] == [True, True]
    assert meter.blocks == 3  # at rest, then each file
    assert sum(told) == 100
    without = Settings(**{**vars(settings), "energy_seconds": 0})
    assert bench_files([net], without)["rows"][0]["energy"] is None


def test_copies_run_side_by_side(net: Path) -> None:
    settings = Settings(shape=[2, 3, 16, 16], streams=3, stream_seconds=0.05, threads=1)
    [entry] = entries_of([net], settings).values()
    found = measure_throughput(entry, settings, never)
    assert found["batch"] == 2
    assert found["streams"] == 3
    assert found["images"] % 2 == 0
    assert found["images_per_second"] == pytest.approx(found["images"] / found["seconds"])
    assert found["seconds"] >= 0.05


def test_every_copy_has_a_thread_and_a_session_of_its_own() -> None:
    seen: dict[int, set[int]] = {}
    together = threading.Barrier(3, timeout=30)

    class Alone(Counted):
        def __enter__(self) -> Alone:
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def infer(self) -> None:
            super().infer()
            if self.calls == 2:  # the first one is the warm-up, one after the other
                together.wait()  # passes only if all three are in a call at once
                seen.setdefault(id(self), set()).add(threading.get_ident())

    entry = Entry(Path("net.onnx"), "alone", lambda *_: Alone())  # type: ignore[arg-type, return-value]
    settings = Settings(streams=3, stream_seconds=0.01)
    found = measure_throughput(entry, settings, never)
    assert len(seen) == 3
    assert len(set.union(*seen.values())) == 3
    assert found["images"] >= 12


def test_a_run_tells_what_device_and_parts_were_seen(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watched(CpuDevice):
        def facts(self) -> dict[str, Any]:
            return {"model": "a board"}

        def state(self) -> dict[str, Any]:
            return {"mhz": 100}

        @contextmanager
        def watched(self) -> Iterator[Sequence[Mapping[str, Any]]]:
            yield [{"seconds": 0.5, "mhz": 50}]

        def doubts(self, before: Any, after: Any, trace: Any) -> list[str]:
            return [f"{before['mhz']} {after['mhz']} {trace[0]['mhz']}"]

    monkeypatch.setattr(bench.run, "device_of", lambda *_: Watched())
    result = bench_files([net], Settings(**{**vars(QUICK), "shape": [1, 3, 16, 16]}))
    assert result["device"]["facts"] == {"model": "a board"}
    assert result["device"]["trace"] == [{"seconds": 0.5, "mhz": 50}]
    assert "100 100 50" in result["warnings"]
