"""Files measured against each other, from path to table."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bench_graphs import Conv, save_chain

import bench.run
from bench.errors import BenchAlignmentError, BenchError
from bench.noise import Interference
from bench.results.schema import SCHEMA
from bench.results.text import render
from bench.run import bench_files
from bench.runtimes.onnxruntime import OnnxRuntime
from bench.settings import Settings

LARGE = [Conv("stem", 3, 256), Conv("body", 256, 256), Conv("last", 256, 8)]
SMALL = [Conv("stem", 3, 8), Conv("last", 8, 8)]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [
        save_chain(tmp_path / "base.onnx", LARGE, shape=(1, 3, 64, 64)),
        save_chain(tmp_path / "small.onnx", SMALL, shape=(1, 3, 64, 64)),
    ]


def fix_times(monkeypatch: pytest.MonkeyPatch, times: Mapping[str, list[int]]) -> None:
    """Let the loop return known latencies."""

    def loop(calls: Mapping[str, object], **_: Any) -> Mapping[str, list[int]]:
        assert calls.keys() == times.keys()
        return times

    monkeypatch.setattr(bench.run, "measure", loop)


def test_real_files_end_to_end(files: list[Path]) -> None:
    steps: list[int] = []
    result = bench_files(files, Settings(min_seconds=0.1, min_count=70), progress=steps.append)
    base, small = result["rows"]
    assert [base["label"], small["label"]] == ["base", "small"]
    for row, path in zip(result["rows"], files, strict=True):
        samples = result["samples_ns"][row["label"]]
        assert row["latency_ms"]["count"] == len(samples) >= 70
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["bytes"] == path.stat().st_size
        assert row["fps"] == pytest.approx(1000 / row["latency_ms"]["p50"])
        assert row["latency_ms"]["p90"] is not None
    assert base["speedup"] == 1.0
    assert base["speedup_ci"] == [1.0, 1.0]
    assert small["speedup"] > 2
    assert small["speedup_ci"][0] <= small["speedup"] <= small["speedup_ci"][1]
    assert sum(steps) == 100
    assert json.loads(json.dumps(result)) == result
    assert result["schema"] == SCHEMA
    assert result["complete"]
    assert result["settings"]["min_count"] == 70


def test_numbers_follow_from_the_samples(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_times(monkeypatch, {"base": [4_000_000] * 64, "small": [1_000_000] * 64})
    row = bench_files(files)["rows"][1]
    assert row["latency_ms"] == {
        "p50": 1.0,
        "p90": 1.0,
        "p99": None,
        "mean": 1.0,
        "cv": 0.0,
        "count": 64,
    }
    assert (row["fps"], row["speedup"], row["speedup_ci"]) == (1000.0, 4.0, [4.0, 4.0])


def test_images_per_second_count_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_chain(tmp_path / "net.onnx", SMALL, shape=("batch", 3, 8, 8))
    fix_times(monkeypatch, {"net": [2_000_000] * 64})
    result = bench_files([path], Settings(shape=[4, 3, 8, 8]))
    assert result["rows"][0]["fps"] == 2000.0
    assert result["rows"][0]["input"] == [4, 3, 8, 8]


def test_varying_latency_is_warned_of_with_a_cause(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_times(monkeypatch, {"base": [1000] * 64, "small": [1000, 1100] * 32})
    [warning] = bench_files(files)["warnings"]
    assert "'small' by 4.8%" in warning
    assert "'base'" not in warning
    assert "Likely cause: " in warning


def test_different_input_shapes_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        save_chain(tmp_path / f"{size}.onnx", SMALL, shape=(1, 3, size, size)) for size in (8, 16)
    ]
    fix_times(monkeypatch, {"8": [1000] * 64, "16": [1000] * 64})
    [warning] = bench_files(paths)["warnings"]
    assert "different shapes" in warning


def test_ragged_channels_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ragged = [Conv("stem", 3, 12), Conv("last", 12, 5)]
    paths = [
        save_chain(tmp_path / "base.onnx", ragged),
        save_chain(tmp_path / "pruned.onnx", SMALL),
    ]
    monkeypatch.setattr(bench.run, "measure", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(BenchAlignmentError, match="stem") as caught:
        bench_files(paths, Settings(align=8))
    assert caught.value.exit_code == 3
    assert list(caught.value.misaligned) == ["base"]
    monkeypatch.undo()
    result = bench_files(
        paths, Settings(align=8, min_seconds=0, min_count=1), align_labels=["pruned"]
    )
    assert len(result["rows"]) == 2
    with pytest.raises(BenchError, match="prunned"):
        bench_files(paths, Settings(align=8), align_labels=["prunned"])


def test_a_row_is_of_the_file_that_was_measured(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    sizes = [path.stat().st_size for path in files]

    def loop(calls: Mapping[str, object], **_: Any) -> Mapping[str, list[int]]:
        files[0].unlink()
        files[1].write_bytes(b"another net")
        return dict.fromkeys(calls, [1] * 11)

    monkeypatch.setattr(bench.run, "measure", loop)
    rows = bench_files(files)["rows"]
    assert [row["sha256"] for row in rows] == digests
    assert [row["bytes"] for row in rows] == sizes


def test_what_a_gpu_computes_is_not_blamed_on_the_cpus_clock(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Interference(other_cores=0.0, stolen_cores=0.0)
    monkeypatch.setattr(bench.run, "interference_between", lambda *_: quiet)
    monkeypatch.setattr(OnnxRuntime, "device", "a GPU")
    fix_times(monkeypatch, {"base": [100, 200] * 10, "small": [100] * 20})
    [warning] = bench_files(files)["warnings"]
    assert "'base'" in warning
    assert "lock its clocks" in warning


def test_a_median_always_has_its_samples(files: list[Path]) -> None:
    result = bench_files(files, Settings(min_seconds=0, min_count=1, warmup_seconds=0))
    assert all(row["latency_ms"]["count"] == 11 for row in result["rows"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "'threads' is 0; the least is 1"),
        ({"min_seconds": -1.0}, "'min_seconds' is -1.0"),
        ({"min_count": 0}, "'min_count' is 0"),
        ({"align": 0}, "'align' is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    files: list[Path], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError, match=message) as caught:
        bench_files(files, Settings(**settings))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["one"], "2 files but 1 labels"), (["same", "same"], r"called \['same'\]")],
)
def test_labels_that_do_not_fit_are_refused(
    files: list[Path], labels: list[str], message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        bench_files(files, labels=labels)


def test_no_file_is_refused() -> None:
    with pytest.raises(BenchError, match="No file"):
        bench_files([])


def test_table_says_what_was_measured_and_what_is_missing(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = ["base [fp32]", "int8 | ort"]
    fix_times(monkeypatch, {labels[0]: [4_000_000] * 64, labels[1]: [1_000_000, 1_600_000] * 32})
    result = bench_files(files, labels=labels)
    text = render(result)
    row = next(line for line in text.splitlines() if "int8 | ort" in line)
    assert "1.000" in row
    assert "1000.0" in row
    assert "4.00x" in row
    assert "speed / base [fp32]" in text
    assert "p99 needs 662 samples" in text
    assert "Warning: latency varies" in text


def test_markdown_is_a_table(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["base", "int8 | ort"]
    fix_times(monkeypatch, {labels[0]: [4_000_000] * 64, labels[1]: [1_000_000] * 64})
    text = render(bench_files(files, labels=labels), markdown=True)
    head, rule, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert set(rule) == {"|", "-"}
    assert len(rows) == 2
    assert "int8 \\| ort" in rows[1]
    assert all(line.replace("\\|", "").count("|") == head.count("|") for line in rows)


def test_importing_bench_pulls_in_nothing_heavy() -> None:
    code = (
        "import pkgutil, sys, bench\n"
        "for module in pkgutil.walk_packages(bench.__path__, 'bench.'):\n"
        "    __import__(module.name)\n"
        "heavy = {'torch', 'ultralytics', 'compress', 'onnx', 'onnxruntime', 'matplotlib'}\n"
        "print(sorted(heavy & sys.modules.keys()), len(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")
