"""The command line from the outside: exit codes, what goes to stdout, what goes to stderr.

Stages are replaced by ones of a few bytes; recipe, data, cache and record are the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bench.errors import BenchError
from compress.cli import app
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.pipeline.stage_table import StageKind

RECIPE = """\
version: 1
model: n.pt
data: d/data.yaml
stages:
  - {stage: prune, target: {macs: 0.4}}
  - {stage: finetune, train: {epochs: 3}, accept: {map50: {max_drop: 0.1}}}
"""
ALL = ["base", "prune", "finetune"]

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
            return StageResult({"checkpoint": "model.pt"}, {"map50": value, "map50_95": value / 2})

        return work

    return function


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, data and weights, as the current one."""
    for split in ("train", "val"):
        for kind, name, text in (("images", "a.jpg", "jpg"), ("labels", "a.txt", "0 .5 .5 .1 .1")):
            file = tmp_path / "d" / kind / split / name
            file.parent.mkdir(parents=True)
            file.write_text(text)
    data = "train: images/train\nval: images/val\nnames: {0: cell}\n"
    (tmp_path / "d" / "data.yaml").write_text(data)
    (tmp_path / "n.pt").write_text("weights")
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StageKind, "function", fake_stages())
    monkeypatch.setattr("compress.report.write_report", report)
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
    assert "[2/3] prune: runs (never run)" in done.stderr


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


def test_bench_refuses_in_one_sentence(home: Path) -> None:
    done = call("bench", "gone.onnx", "--device", "toaster", "--json")
    assert done.exit_code == 2
    assert "toaster" in json.loads(done.stdout)["error"]


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
    prelude = (
        "import time\n"
        "from compress.pipeline.stage_table import StageKind\n"
        "def work(config, inputs, context):\n"
        "    context.progress.say('sleeps')\n"
        "    time.sleep(60)\n"
        "StageKind.function = lambda kind: work\n"
    )
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
