"""The command line from the outside: exit codes, what goes to stdout, what goes to stderr.

Stages are replaced by ones of a few bytes; recipe, data, cache and record are the real ones.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bench.errors import BenchError
from compress.cli import app
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.pipeline.stage_table import StageKind
from compress.pipeline.weights import weight_faults
from compress.progress import ConsoleProgress

RECIPE = """\
version: 1
model: n.pt
data: d/data.yaml
stages:
  - {stage: prune, target: {macs: 0.4}}
  - {stage: finetune, train: {epochs: 3}, accept: {map50: {max_drop: 0.1}}}
"""
ALL = ["base", "prune", "finetune"]
ROW = b"0 .5 .5 .1 .1\n"


def _png(side: int) -> bytes:
    """A black picture, without a library that writes pictures."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (side + 1)))
    parts = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


PNG = _png(16)

Behaviour = Callable[[str, Context], None]


def fake_stages(map50: float = 0.8, behave: Behaviour | None = None) -> Callable[..., Any]:
    def function(kind: StageKind) -> Callable[..., StageResult]:
        def work(config: Any, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
            print(f"noise of {kind.name} on stdout")
            os.write(1, b"noise from C on stdout\n")
            if behave:
                behave(kind.name, context)
            (context.out / "model.pt").write_text(f"{config!r}")
            value = map50 if kind.name == "finetune" else 0.8
            metrics = {"map50": value, "map50_95": value / 2, "timing": {"speedup_ci": [1.1, 1.2]}}
            return StageResult({"checkpoint": "model.pt"}, metrics)

        return work

    return function


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, data and weights, as the current one."""
    for split in ("train", "val"):
        for kind, name, content in (("images", "a.png", PNG), ("labels", "a.txt", ROW)):
            file = tmp_path / "d" / kind / split / name
            file.parent.mkdir(parents=True)
            file.write_bytes(content)
    data = "train: images/train\nval: images/val\nnames: {0: cell}\n"
    (tmp_path / "d" / "data.yaml").write_text(data)
    (tmp_path / "n.pt").write_text("weights")
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StageKind, "function", fake_stages())
    monkeypatch.setattr("compress.report.write_report", report)
    # weights of a few bytes cannot be opened
    monkeypatch.setattr("compress.pipeline.preflight.weight_faults", lambda job, steps: [])
    return tmp_path


def report(folder: Path) -> None:
    for name in ("report.md", "report.html"):
        (folder / name).write_text("report")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_run_shows_the_table_and_where_the_report_is(home: Path) -> None:
    done = call("run", "r.yaml")
    assert done.exit_code == 0, done.output
    assert all(name in done.stdout for name in ALL)
    assert str(home / "runs/r/report.html") in done.stdout
    assert "noise" not in done.stdout
    assert "prune: runs" not in done.stderr  # quiet where it is no terminal


def test_run_again_says_that_all_is_cached(home: Path) -> None:
    call("run", "r.yaml")
    done = call("run", "r.yaml", "--quiet")
    assert done.exit_code == 0
    assert "All 3 stages are cached" in done.stdout
    assert done.stderr == ""


def test_json_is_one_document_and_nothing_else(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for ran in (ALL, []):
        done = call("run", "r.yaml", "--json")
        document = json.loads(done.stdout)
        assert document["status"] == "done"
        assert document["ran"] == ran
        assert document["run_folder"] == str(home / "runs/r")
        assert document["report"]["html"] == str(home / "runs/r/report.html")
    assert capfd.readouterr().out == ""  # not even what C code writes


def test_overrides_and_folders(home: Path) -> None:
    done = call("run", "r.yaml", "imgsz=320", "seed=3", "--out", "o/x", "--cache", "c", "--json")
    document = json.loads(done.stdout)
    assert document["overrides"] == ["imgsz=320", "seed=3"]
    assert (document["imgsz"], document["seed"]) == (320, 3)
    assert (home / "o/x/03-finetune/model.pt").is_file()
    assert list((home / "c/stages").iterdir())


def test_plan_and_dry_run_say_hit_or_miss_and_why(home: Path) -> None:
    assert "prune     miss: never run" in call("plan", "r.yaml").stdout
    assert not (home / "runs/r").exists()
    call("run", "r.yaml")
    (home / "r.yaml").write_text(RECIPE.replace("epochs: 3", "epochs: 5"))
    for command in (("plan",), ("run", "--dry-run")):
        lines = call(*command, "r.yaml").stdout.splitlines()
        assert lines[:3] == [
            "base      hit",
            "prune     hit",
            "finetune  miss: train.epochs 3 -> 5",
        ]
    steps = json.loads(call("plan", "r.yaml", "--json").stdout)["steps"]
    assert [step["state"] for step in steps] == ["hit", "hit", "miss"]


def test_trials_of_a_back_off_are_told_by_run_and_plan(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageKind, "function", fake_stages(0.2))
    eased = RECIPE.replace("max_drop: 0.1}", "max_drop: 0.1}, back_off: {tries: 1}")
    (home / "r.yaml").write_text(eased)
    assert "'prune' is eased and run again" in call("plan", "r.yaml").stdout
    done = call("run", "r.yaml", "--json")
    assert done.exit_code == 3
    assert "misses its accept gate in all 2 trials" in done.stderr
    trials = json.loads(done.stdout)["trials"]
    assert [trial["target"] for trial in trials] == [{"macs": 0.4}, {"macs": 0.55}]
    assert (
        "Trial 2: 'prune' to macs 0.55: 'finetune' misses its gate"
        in call("report", "runs/r").stdout
    )
    assert "prune     hit (trial 2: target macs 0.55)" in call("plan", "r.yaml").stdout


def test_from_until_and_force(home: Path) -> None:
    def ran(*options: str) -> list[str]:
        return list(json.loads(call("run", "r.yaml", "--json", *options).stdout)["ran"])

    assert ran("--until", "prune") == ["base", "prune"]
    assert ran("--from", "finetune") == ["finetune"]
    assert ran("--force", "base", "--force", "prune") == ["base", "prune"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.yaml"], "no recipe 'nothing.yaml'"),
        (["r.yaml", "stages.0.ratoi=1"], "ratoi"),
        (["r.yaml", "model=gone.pt"], "gone.pt"),
        (["r.yaml", "data=gone.yaml"], "gone.yaml"),
        (["r.yaml", "--until", "x"], "--until x: no such stage"),
        (["r.yaml", "--from", "prune"], "'base' before it is not cached"),
        (["r.yaml", "--out", "n.pt/x"], "cannot write in"),
        (["r.yaml", "--cache", "n.pt/x"], "cannot write in"),
    ],
)
def test_faults_of_the_user_are_one_message_and_exit_2(
    home: Path, arguments: list[str], message: str
) -> None:
    done = call("run", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_fault_with_json_is_a_document_too(home: Path) -> None:
    done = call("run", "r.yaml", "model=gone.pt", "--json")
    assert done.exit_code == 2
    document = json.loads(done.stdout)
    assert document["status"] == "error"
    assert "gone.pt" in document["error"]


def test_missed_gate_exits_3_with_the_table_and_the_miss(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageKind, "function", fake_stages(map50=0.5))
    done = call("run", "r.yaml")
    assert done.exit_code == 3
    assert "finetune" in done.stdout
    assert "'finetune' misses its accept gate: map50 is 0.5000" in done.stderr
    document = json.loads(call("run", "r.yaml", "--json").stdout)
    assert document["status"] == "gate"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (BenchError("channels of conv1 are ragged"), 2, "channels of conv1 are ragged"),
        (ModuleNotFoundError("x", name="torch"), 2, "pip install 'yolo-compress[train]'"),
        (KeyboardInterrupt(), 130, "stopped: every finished stage is kept"),
    ],
)
def test_faults_inside_a_stage(
    home: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(stage: str, context: Context) -> None:
        if stage == "prune":
            raise error

    monkeypatch.setattr(StageKind, "function", fake_stages(behave=fail))
    done = call("run", "r.yaml")
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (home / "runs/r/01-base/model.pt").is_file()


def test_fault_of_ours_is_short_and_leaves_the_traceback_in_a_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stage: str, context: Context) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(StageKind, "function", fake_stages(behave=fail))
    done = call("run", "r.yaml")
    assert done.exit_code == 1
    assert "fault of compress, not of yours: ZeroDivisionError: by nought" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in (home / "runs/r/error.txt").read_text()
    assert "Traceback" in call("--debug", "run", "r.yaml").stderr


def test_module_of_our_own_that_is_missing_is_no_missing_extra(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stage: str, context: Context) -> None:
        raise ModuleNotFoundError("No module named 'compress.stages.x'", name="compress.stages.x")

    monkeypatch.setattr(StageKind, "function", fake_stages(behave=fail))
    assert call("run", "r.yaml").exit_code == 1


def test_validate_checks_recipe_files_and_labels(home: Path) -> None:
    done = call("validate", "r.yaml", "--json")
    assert json.loads(done.stdout)["stages"] == ALL
    assert "stages: base, prune, finetune" in call("validate", "r.yaml").stdout
    (home / "d/labels/train/a.txt").write_text("7 .5 .5 .1 .1\n")
    done = call("validate", "r.yaml")
    assert done.exit_code == 2
    assert "a.txt:1" in done.stderr
    (home / "n.pt").unlink()
    assert call("validate", "r.yaml").exit_code == 2
    assert call("validate", "r.yaml", "--recipe-only").exit_code == 0


def test_report_needs_a_run_folder(home: Path) -> None:
    assert call("report", "d").exit_code == 2
    call("run", "r.yaml")
    (home / "runs/r/report.md").unlink()
    done = call("report", "runs/r")
    assert done.exit_code == 0
    assert (home / "runs/r/report.md").is_file()
    assert "finetune" in done.stdout


ODD_RECORDS: list[dict[str, Any]] = [
    {"stages": 7},
    {"stages": [], "data": "x"},
    {"stages": [{"name": "a"}, 3]},
    {"stages": [{"name": "a", "metrics": {"curves": {"loss": ["x"]}}}], "status": "done"},
]


@pytest.mark.parametrize("record", ODD_RECORDS, ids=str)
def test_report_of_an_odd_record_is_one_message(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record))
    done = call("report", str(tmp_path))
    assert done.exit_code == 2
    assert f"'{tmp_path / 'run.json'}' is not the record of a run as this version" in done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "quiet", "shown"),
    [
        (Terminal, False, ["step", "warning"]),
        (Terminal, True, ["warning"]),
        (io.StringIO, False, ["warning"]),
        (io.StringIO, True, ["warning"]),
    ],
)
def test_progress_shows_lines_on_a_terminal_and_warnings_everywhere(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], quiet: bool, shown: list[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    progress = ConsoleProgress(quiet)
    progress.say("step")
    progress.say("warning", important=True)
    with progress.task("long", 2) as bar:
        bar.advance(2)
    told = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert [word for word in ("step", "warning") if word in told] == shown
    assert ("long" in told) == ("step" in shown)


def test_a_piped_run_says_nothing_but_its_result(home: Path) -> None:
    process = compress_in_process("run", "r.yaml", cwd=home, prelude=FAKE_WORK)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    assert "Report: " in out


def test_looking_changes_nothing(home: Path) -> None:
    before = sorted(home.rglob("*"))
    for command in (("plan",), ("validate",), ("run", "--dry-run")):
        assert call(*command, "r.yaml").exit_code == 0
    assert sorted(home.rglob("*")) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_looking_needs_no_folder_that_can_be_written(home: Path) -> None:
    home.chmod(0o500)
    try:
        for command in ("plan", "validate"):
            assert call(command, "r.yaml").exit_code == 0
    finally:
        home.chmod(0o700)


def test_validate_opens_the_images(home: Path) -> None:
    (home / "d/images/val/a.png").write_text("text")
    done = call("validate", "r.yaml")
    assert done.exit_code == 2
    assert "a.png: not an image" in done.stderr


def test_validate_and_run_open_the_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ultralytics")
    monkeypatch.setattr("compress.pipeline.preflight.weight_faults", weight_faults)
    for command in ("validate", "run"):
        done = call(command, "r.yaml")
        assert done.exit_code == 2
        assert "r.yaml:2:8: " in done.stderr
        assert "n.pt: not a readable PyTorch checkpoint" in done.stderr
    assert not (home / "runs/r/01-base").exists()
    assert "hit" not in call("plan", "r.yaml").stdout


def test_validate_without_torch_says_what_it_did_not_open(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.pipeline.preflight.find_spec", lambda name: None)
    done = call("validate", "r.yaml")
    assert done.exit_code == 0
    assert "skipped: weights not opened (torch, ultralytics not installed: pip in" in done.stdout


@pytest.mark.parametrize("command", ["run", "validate"])
def test_a_device_that_is_not_there_is_told_before_work(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    done = call(command, "r.yaml", "device=0")
    assert done.exit_code == 2
    assert "override 'device=0': no device '0': PyTorch finds no CUDA GPU here" in done.stderr


def test_a_bench_of_a_missing_split_is_told_by_plan_and_validate(home: Path) -> None:
    text = "  - {stage: export}\n  - {stage: bench, splits: [test]}\n"
    (home / "r.yaml").write_text(RECIPE + text)
    for command in ("plan", "validate", "run"):
        done = call(command, "r.yaml")
        assert done.exit_code == 2
        assert "r.yaml:8:29: 'bench' measures mAP on the test split" in done.stderr


def test_doctor_recipes_and_version() -> None:
    assert "train" in call("doctor").stdout
    names = [check["name"] for check in json.loads(call("doctor", "--json").stdout)]
    assert {"train", "cpu", "cuda", "jetson"} <= set(names)
    assert isinstance(json.loads(call("recipes", "--json").stdout), list)
    assert call("--version").stdout.startswith("compress ")


def test_unknown_option_is_a_usage_error() -> None:
    done = call("run", "r.yaml", "--fourse", "prune")
    assert done.exit_code == 2
    assert "--force" in done.stderr


def compress_in_process(*arguments: str, cwd: Path, prelude: str = "") -> subprocess.Popen[str]:
    script = f"import sys\n{prelude}\nsys.argv = ['compress', *{arguments!r}]\n"
    script += "from compress.__main__ import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


FAKE_WORK = """\
import time
from compress.pipeline import preflight
from compress.pipeline.contract import StageResult
from compress.pipeline.stage_table import StageKind

def work(config, inputs, context):
    (context.out / "model.pt").write_text(repr(config))
    metrics = {"map50": 0.8, "map50_95": 0.4, "timing": {"speedup_ci": [1.1, 1.2]}}
    return StageResult({"checkpoint": "model.pt"}, metrics)

StageKind.function = lambda kind: work
preflight.weight_faults = lambda job, steps: []
"""


def test_finished_recipe_is_quick_and_imports_no_heavy_library(home: Path) -> None:
    call("run", "r.yaml")
    prelude = (
        "import atexit\n"
        "heavy = ('torch', 'ultralytics', 'onnx', 'onnxruntime', 'matplotlib')\n"
        "atexit.register(lambda: print('heavy', [n for n in heavy if n in sys.modules]))\n"
    )
    started = time.monotonic()
    process = compress_in_process("run", "r.yaml", cwd=home, prelude=prelude)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 3
    assert process.returncode == 0, err
    assert "All 3 stages are cached" in out
    assert "heavy []" in out


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_cleanly(home: Path, signum: int) -> None:
    sleep = "    print('sleeps', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
    prelude = FAKE_WORK.replace("    (context", f"{sleep}    (context")
    process = compress_in_process("run", "r.yaml", cwd=home, prelude=prelude)
    assert process.stderr is not None
    while "sleeps" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped: every finished stage is kept" in err
    assert "Traceback" not in err
    assert json.loads((home / "runs/r/run.json").read_text())["status"] == "stopped"
