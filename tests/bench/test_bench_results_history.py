"""Results over time: one series a file and machine, in order, damaged files named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_results import result_of, samples_of
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.results.files import write_result
from bench.results.history import read_history
from compress.cli import app

TIMES = {
    "c.json": ("2026-01-01", 2.0),
    "a.json": ("2026-01-02", 2.01),
    "b.json": ("2026-01-03", 2.4),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files whose names are in another order than their times."""
    for seed, (name, (day, time)) in enumerate(TIMES.items()):
        result = result_of(
            {"base": samples_of(4.0, seed), "net": samples_of(time, 10 + seed)},
            created=f"{day}T12:00:00+00:00",
        )
        write_result(tmp_path / name, result)
    return tmp_path


def test_a_series_is_in_the_order_of_time(folder: Path) -> None:
    found = read_history([folder])
    assert [series.label for series in found.series] == ["base", "net"]
    net = found.series[1].points
    assert [point.source for point in net] == list(TIMES)
    assert [point.verdict for point in net] == ["", "same", "slower"]
    assert net[0].ratio is net[0].to_first is None
    assert net[2].ratio == pytest.approx(1.19, abs=0.01)
    assert net[2].to_first == pytest.approx(1.2, abs=0.01)
    assert [point.verdict for point in found.series[0].points] == ["", "same", "same"]
    assert found.skipped == []


def test_times_zones_are_minded_and_a_file_counts_once(folder: Path) -> None:
    late = result_of({"net": samples_of(2.0)}, created="2026-01-03T13:00:00+02:00")
    write_result(folder / "late.json", late)
    odd = result_of({"net": samples_of(2.0)}, created="once")
    write_result(folder / "odd.json", odd)
    points = read_history([folder / "late.json", folder, folder / "odd.json"]).series[1].points
    assert [p.source for p in points] == ["odd.json", "c.json", "a.json", "late.json", "b.json"]


def test_other_machines_threads_and_inputs_are_other_series(folder: Path) -> None:
    other = result_of({"net": samples_of(9.0)}, created="2026-01-05T12:00:00+00:00")
    other["machine"]["cpu"] = "Another CPU"
    write_result(folder / "other.json", other)
    other["settings"]["threads"] = 4
    write_result(folder / "threads.json", other)
    other["rows"][0]["input"] = [1, 3, 320, 320]
    write_result(folder / "shape.json", other)
    other["rows"][0]["runtime"] = "ONNX Runtime 9.9.9 (CUDA)"
    write_result(folder / "runtime.json", other)
    other["rows"][0]["runtime"] = "ONNX Runtime 10.0.0 (CUDA)"  # a version is no other series
    write_result(folder / "version.json", other)
    other["device"]["facts"]["power_mode"] = {"id": 2, "name": "15W"}
    write_result(folder / "mode.json", other)
    other["device"]["facts"]["module"] = "Jetson Orin NX 8GB"
    write_result(folder / "module.json", other)
    nets = [series for series in read_history([folder]).series if series.label == "net"]
    assert sorted(len(series.points) for series in nets) == [1, 1, 1, 1, 1, 2, 3]
    assert any("Another CPU, Jetson Orin NX 8GB, 15W, " in series.title for series in nets)
    assert any("Another CPU, 15W, " in series.title for series in nets)
    assert "Another CPU, ONNX Runtime (CUDA), 4 threads, 1x3x320x320" in [n.title for n in nets]


def test_damaged_files_are_named_and_skipped(folder: Path) -> None:
    (folder / "damaged.json").write_text("{")
    (folder / "old.json").write_text('{"schema": 1, "rows": []}')
    found = read_history([folder])
    assert len(found.series[1].points) == 3
    assert ["damaged.json" in found.skipped[0], "old.json" in found.skipped[1]] == [True, True]
    with pytest.raises(BenchError, match=r"no bench result among.*\n.*damaged"):
        read_history([folder / "damaged.json"])


def test_the_history_command(folder: Path, tmp_path: Path) -> None:
    (folder / "damaged.json").write_text("{")
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["bench", "history", str(folder), "--html", str(page)])
    assert done.exit_code == 0, done.output
    [last] = [line for line in done.stdout.splitlines() if "b.json" in line and "net" in line]
    assert "slower" in last
    assert "+19." in last
    assert "Skipped: " in done.stdout
    text = page.read_text()
    assert text.count("<svg") == 1
    assert "damaged.json" in text
    as_json = CliRunner().invoke(app, ["bench", "history", str(folder), "--json"])
    assert json.loads(as_json.stdout)["series"][1]["points"][2]["verdict"] == "slower"
