"""``python3 -m bench``: what runs on a board, as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from bench_graphs import Conv, save_chain

from bench.__main__ import main
from bench.settings import Settings
from bench.worker_lines import FAULT, PROGRESS

ROOT = Path(__file__).parents[2]
QUICK = Settings(min_seconds=0, min_count=11, warmup_seconds=0)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 64), Conv("last", 64, 8)])


def write_request(net: Path, settings: Settings = QUICK, other: Any = None) -> Path:
    files = [{"path": str(net), "runtime": "onnxruntime", "label": "a net"}]
    path = net.with_name("request.json")
    path.write_text(json.dumps({"settings": asdict(settings), "files": files, **(other or {})}))
    return path


def fault_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith(FAULT)]
    fault: dict[str, Any] = json.loads(line[len(FAULT) :])
    return fault


def test_a_request_becomes_a_result(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = net.with_name("result.json")
    assert main(str(write_request(net)), str(target)) == 0
    result = json.loads(target.read_text())
    assert result["complete"]
    assert [row["label"] for row in result["rows"]] == ["a net"]
    lines = capsys.readouterr().err.splitlines()
    points = [int(x[len(PROGRESS) :]) for x in lines if x.startswith(PROGRESS)]
    assert sum(points) == 100
    assert {path.name for path in net.parent.iterdir()} == {
        "net.onnx",
        "request.json",
        "result.json",
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_what_was_measured(net: Path, number: signal.Signals) -> None:
    settings = Settings(min_seconds=30, min_count=11, warmup_seconds=0)
    target = net.with_name("result.json")
    command = [sys.executable, "-m", "bench", str(write_request(net, settings)), str(target)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        for line in worker.stderr:
            if line.startswith(PROGRESS):
                worker.send_signal(number)
                break
        worker.stderr.read()
    assert worker.returncode == 0
    result = json.loads(target.read_text())
    assert not result["complete"]
    assert result["rows"][0]["latency_ms"]["count"] >= 1


def test_a_fault_is_one_line_and_no_traceback(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net.write_bytes(b"no net")
    target = net.with_name("result.json")
    assert main(str(write_request(net)), str(target)) == 2
    fault = fault_of(capsys)
    assert fault["exit_code"] == 2
    assert str(net) in fault["error"]
    assert not target.exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"settings": {"speed": 9}}, "'speed'"),
        ({"settings": {"threads": 0}}, "'threads' is 0"),
        ({"files": [{"path": "net.onnx"}]}, "'runtime'"),
        ({"files": None}, "request is not one of this version"),
    ],
)
def test_requests_of_another_version_are_refused(
    net: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any], message: str
) -> None:
    assert main(str(write_request(net, other=other)), str(net.with_name("result.json"))) == 2
    assert message in fault_of(capsys)["error"]


def test_what_cannot_be_read_or_written_is_told(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(str(net.with_name("gone.json")), "result.json") == 2
    assert "gone.json" in fault_of(capsys)["error"]
    assert main(str(write_request(net)), str(net / "result.json")) == 2
    assert "cannot be written" in fault_of(capsys)["error"]
