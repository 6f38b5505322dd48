"""What a board says is not trusted: neither its form nor its signs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

import pytest
from bench_graphs import Conv, save_chain

import bench.remote.command
from bench.errors import BenchError
from bench.remote.answers import readable
from bench.remote.command import Command
from bench.remote.job import make_job
from bench.remote.progress import StepLog
from bench.remote.session import Session
from bench.remote.ssh import connection_fault
from bench.results.schema import BenchResult
from bench.settings import Settings
from bench.worker_lines import FAULT

EVIL = "\x1b]0;title\x07 \x9b31m \r \x00"
SETTINGS = Settings(device="jetson", shape=[1, 3, 8, 8])
ROW = {"label": "net@tensorrt", "file": "files/0/net.engine", "notes": []}
RESULT = {"created": "2024-01-01T00:00:00+00:00", "warnings": [EVIL], "rows": [ROW]}
FACTS = {"tensorrt": f"10{EVIL}", "notes": [EVIL]}


class Board:
    """Answers as an agent does whose job is done, ``ahead`` seconds before our clock."""

    def __init__(self, result: str, facts: str, ahead: float) -> None:
        self._result, self._facts, self._ahead = result, facts, ahead

    def ask(self, request: str, **fields: Any) -> dict[str, Any]:
        if request == "open":
            now = time.time() + self._ahead
            return {"folder": "there", "lacking": [], "missing": [], "now": now}
        if request == "look":
            return {"running": False, "done": True, "log": "", "offset": 0}
        if request == "fetch":
            return {"text": self._result if fields["name"] == "result.json" else self._facts}
        return {}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(bench.remote.command, "checked", lambda value, name: value)
    net = save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 8)])
    job = make_job([net], SETTINGS, None, None, None, lambda _: {})
    return Command("board", job, SETTINGS, None, False, lambda _: None, lambda: False)


def result_of(command: Command, result: Any, facts: Any, ahead: float = 0) -> BenchResult:
    board = Board(json.dumps(result), json.dumps(facts), ahead)
    return command.over(cast(Session, board))


def is_plain(text: str) -> bool:
    return (
        not set(text) & set(EVIL.replace(" ", "")) & set(map(chr, [*range(32), *range(127, 160)]))
    )


def test_no_text_of_a_board_reaches_the_terminal_as_a_command(command: Command) -> None:
    result = result_of(command, RESULT, FACTS)
    [row] = result["rows"]
    assert any("TensorRT 10" in note for note in row["notes"])
    assert is_plain("".join([*result["warnings"], *row["notes"]]))
    log = StepLog(None)
    log.take(f"{EVIL}\n", 1)
    assert is_plain(str(log.fault()).replace("\n", ""))
    log.take(f"{FAULT}{json.dumps({'error': EVIL})}\n", 2)
    assert is_plain(str(log.fault()))
    assert is_plain(str(connection_fault("board", [], EVIL)))


def test_lines_and_letters_stay() -> None:
    assert readable("Zoë\t1\r\n2 €") == "Zoë\t1\n2 €"


@pytest.mark.parametrize(
    ("facts", "created", "ahead"),
    [
        ([], RESULT["created"], 0),
        ({"notes": []}, RESULT["created"], 0),
        ({"tensorrt": 10, "notes": []}, RESULT["created"], 0),
        ({"tensorrt": "10", "notes": [1]}, RESULT["created"], 0),
        (FACTS, "yesterday", 1e6),
        (FACTS, RESULT["created"], 1e300),
    ],
)
def test_facts_and_time_are_checked(
    command: Command, facts: Any, created: Any, ahead: float
) -> None:
    with pytest.raises(BenchError, match="'board' answered something else than"):
        result_of(command, {**RESULT, "created": created}, facts, ahead)


@pytest.mark.parametrize("text", ["Welcome!", "[" * 100_000, ""])
def test_a_result_that_is_no_json_is_told(command: Command, text: str) -> None:
    with pytest.raises(BenchError, match=r"something else than the JSON of 'result\.json'"):
        command.over(cast(Session, Board(text, "{}", 0)))
