"""``compress bench`` from the outside: what it takes, writes, prints, and ends with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bench.errors import BenchError
from bench.settings import Settings
from compress.cli import app

sys.path.append(str(Path(__file__).parent / "bench"))
from bench_graphs import Conv, save_chain

QUICK = ("--min-seconds", "0", "--min-count", "1", "--energy-seconds", "0")
SHAPE = (1, 3, 16, 16)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    return [
        save_chain(tmp_path / "base.onnx", [Conv("a", 3, 64), Conv("b", 64, 64)], shape=SHAPE),
        save_chain(tmp_path / "small.onnx", [Conv("a", 3, 6), Conv("b", 6, 6)], shape=SHAPE),
    ]


@pytest.mark.parametrize("name", [(), ("measure",)])
def test_measuring_needs_no_name(nets: list[Path], name: tuple[str, ...]) -> None:
    done = call(*name, *nets, *QUICK, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert [row["label"] for row in result["rows"]] == ["base", "small"]
    assert result["complete"]


def test_the_other_commands_are_named() -> None:
    done = call("--help")
    assert done.exit_code == 0
    for name in ("measure", "compare", "report", "history", "profile", "roofline"):
        assert name in done.stdout


def test_a_result_goes_to_every_place_that_is_named(nets: list[Path], tmp_path: Path) -> None:
    files = {name: tmp_path / "made" / f"r.{name}" for name in ("json", "html", "md")}
    done = call(*nets, *QUICK, "--out", files["json"], "--html", files["html"], "--md", files["md"])
    assert done.exit_code == 0, done.output
    assert "small" in done.stdout
    assert json.loads(files["json"].read_text())["rows"][1]["label"] == "small"
    assert "<html" in files["html"].read_text()
    assert "| small" in files["md"].read_text()
    again = call("report", files["json"])
    assert again.exit_code == 0, again.output
    assert again.stdout == done.stdout


def test_a_place_that_cannot_be_written_is_told_before_measuring(
    nets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.run.bench_files", lambda *_, **__: pytest.fail("it was measured"))
    for place in (nets[0].parent, nets[0] / "r.json"):
        done = call(nets[1], "--out", place)
        assert done.exit_code == 2, done.output
        assert "cannot be written" in done.stderr


def test_a_place_that_would_lose_something_is_refused(
    nets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.run.bench_files", lambda *_, **__: pytest.fail("it was measured"))
    content = nets[1].read_bytes()
    assert "not for a result" in call(nets[0], "--out", nets[1]).stderr
    assert nets[1].read_bytes() == content
    assert "named twice" in call(nets[0], "--out", "r.txt", "--html", "r.txt").stderr


def test_what_cannot_be_rated_is_told_before_measuring(
    nets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.run.bench_files", lambda *_, **__: pytest.fail("it was measured"))
    done = call(nets[0], "--data", "gone.yaml")
    assert done.exit_code == 2
    assert "gone.yaml" in done.stderr


def test_options_of_a_board_need_one(nets: list[Path]) -> None:
    for option in (["--keep"], ["--ssh-option", "Port=1"]):
        done = call(nets[0], *option)
        assert done.exit_code == 2
        assert "--host" in done.stderr


def test_comparing_a_result_with_itself_finds_nothing_slower(
    nets: list[Path], tmp_path: Path
) -> None:
    assert call(*nets, *QUICK, "--out", tmp_path / "r.json").exit_code == 0
    done = call("compare", tmp_path / "r.json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output


def test_a_slower_file_fails_a_comparison(nets: list[Path], tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert call(*nets, *QUICK, "--out", before).exit_code == 0
    result = json.loads(before.read_text())
    slow = [2 * value for value in result["samples_ns"]["small"]]
    result["samples_ns"]["small"] = slow
    row = result["rows"][1]
    row["latency_ms"] = {**row["latency_ms"], "p50": 2 * row["latency_ms"]["p50"]}
    after.write_text(json.dumps(result))
    done = call("compare", before, after)
    assert done.exit_code == 3, done.output
    assert "small" in done.output


def test_ragged_channels_end_with_the_table_and_exit_3(nets: list[Path]) -> None:
    done = call(*nets, *QUICK, "--align", "4")
    assert done.exit_code == 3
    lines = [line.split()[:4] for line in done.stderr.splitlines()]
    assert ["small", "a", "output", "6"] in lines
    assert not any(line[:1] == ["base"] for line in lines)
    assert call(nets[0], *QUICK, "--align", "rockchip").exit_code == 0
    unknown = call(nets[0], *QUICK, "--align", "toaster")
    assert unknown.exit_code == 2
    assert "jetson-dla" in unknown.stderr


def test_faults_are_one_sentence_and_exit_2(nets: list[Path]) -> None:
    done = call("gone.onnx", "--device", "toaster", "--json")
    assert done.exit_code == 2
    assert "toaster" in json.loads(done.stdout)["error"]
    missing = call("gone.onnx")
    assert missing.exit_code == 2
    assert "'gone.onnx' does not exist" in missing.stderr
    cut = nets[0].with_name("cut.onnx")
    cut.write_bytes(nets[0].read_bytes()[:-200])
    damaged = call(cut)
    assert damaged.exit_code == 2
    assert "truncated" in damaged.stderr
    assert "Traceback" not in damaged.output


def test_options_become_settings(nets: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []

    def bench_files(paths: Any, settings: Settings, **_: Any) -> None:
        asked.append(settings)
        raise BenchError("seen")

    monkeypatch.setattr("bench.run.bench_files", bench_files)
    call(nets[0], "--shape", "1,3,640,480", "--streams", "2", "--no-cuda-graph", "--threads", "3")
    call(nets[0])
    [given, plain] = asked
    assert (given.shape, given.streams, given.threads) == ([1, 3, 640, 480], 2, 3)
    assert not given.cuda_graph
    assert plain == Settings()
    for wrong in ("1,3,x,640", "1,-3,64,64", "0,3,64,64", ","):
        done = call(nets[0], "--shape", wrong)
        assert done.exit_code == 2
        assert f"--shape {wrong}: give whole numbers" in done.stderr


def test_a_run_that_was_stopped_is_shown_and_ends_with_130(
    nets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.run import bench_files

    def stopped(*arguments: Any, **options: Any) -> Any:
        return {**bench_files(*arguments, **options), "complete": False}

    monkeypatch.setattr("bench.run.bench_files", stopped)
    done = call(*nets, *QUICK, "--json")
    assert done.exit_code == 130
    assert not json.loads(done.stdout)["complete"]
