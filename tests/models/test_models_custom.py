"""Layers of the user's own: known where allowed, unknown again after, never run unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner
from ultralytics.nn import tasks

from compress.cli import app
from compress.errors import CompressError
from compress.models.build import build_model
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.custom_modules import custom_modules
from compress.pipeline.contract import Context
from compress.recipe.schema import TrainStage

NAMES = {0: "square", 1: "disc", 2: "bar"}
MODULE = "squeeze_blocks"
LAYERS = '''\
from pathlib import Path

import torch
from torch import nn

Path(__file__).with_name("it-ran").touch()


class Gate(nn.Module):
    """Its argument is what the model yaml says; channels stay."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True)))


class Settings:
    pass
'''


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    file = tmp_path / f"{MODULE}.py"
    file.write_text(LAYERS)
    return file


@pytest.fixture
def gated_yaml(net_yaml: Path, tmp_path: Path) -> Path:
    """The small net with a ``Gate`` in place of its last backbone block of 64 channels."""
    text = net_yaml.read_text()
    old = "  - [-1, 3, C2f, [512, True]]\n  - [-1, 1, SPPF"
    assert text.count(old) == 1
    yaml = tmp_path / "gated.yaml"
    yaml.write_text(text.replace(old, "  - [-1, 1, Gate, [64]]\n  - [-1, 1, SPPF"))
    return yaml


def test_a_model_of_own_layers_is_trained_saved_and_loaded(
    layers: Path, gated_yaml: Path, make_context: Callable[[str], Context]
) -> None:
    from compress.pipeline.contract import Artifact
    from compress.stages.train import run

    context = make_context("train")
    config = TrainStage.model_validate({"stage": "train", "train": {"epochs": 1, "batch": 8}})
    with custom_modules(layers):
        result = run(config, {"weights": Artifact(gated_yaml, "")}, context)
        file = context.out / result.files["checkpoint"]
        fresh = build_model(gated_yaml, NAMES, 0)
    with pytest.raises(CompressError, match=rf"refused before loading.*{MODULE}\.Gate"):
        load_checkpoint(file)
    with custom_modules(layers):
        model = load_checkpoint(file)
        assert type(model.model[8]).__name__ == "Gate"
        assert not torch.equal(model.model[8].conv.weight, fresh.model[8].conv.weight)  # it learnt
        save_checkpoint(model, context.out / "again.pt")
        again = load_checkpoint(context.out / "again.pt").state_dict()
        assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_stock_ultralytics_loads_it_where_the_file_can_be_imported(
    layers: Path, gated_yaml: Path, tmp_path: Path
) -> None:
    file = tmp_path / "gated.pt"
    with custom_modules(layers):
        save_checkpoint(build_model(gated_yaml, NAMES, 0), file)
    script = (
        "import sys; sys.modules.update(compress=None)\n"
        "import torch; from ultralytics import YOLO\n"
        f"model = YOLO({str(file)!r})\n"
        "assert type(model.model.model[8]).__module__ == 'squeeze_blocks'\n"
        "model.predict(torch.zeros(1, 3, 64, 64), verbose=False)\n"
    )
    # ours is set by compress; ultralytics' own default knows no layers of others
    environment = {k: v for k, v in os.environ.items() if k != "ULTRALYTICS_SAFE_LOAD"}
    environment |= {"PYTHONPATH": str(layers.parent), "YOLO_AUTOINSTALL": "false"}
    subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, check=True, timeout=120
    )


def test_all_is_as_before_after_the_block(layers: Path, gated_yaml: Path) -> None:
    def known() -> tuple[set[str], set[str], set[object]]:
        trusted = torch.serialization.get_safe_globals()
        return set(vars(tasks)), set(sys.modules), set(trusted)

    before = known()

    def fail() -> None:
        with custom_modules(layers):
            assert hasattr(tasks, "Gate")
            with custom_modules(layers):  # the same file within itself: not run again
                pass
            assert hasattr(tasks, "Gate")
            build_model(gated_yaml, NAMES, 0)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert known() == before
    assert not (layers.parent / "__pycache__").exists()
    with pytest.raises(CompressError, match="Gate"):
        build_model(gated_yaml, NAMES, 0)


def test_without_a_file_nothing_is_done() -> None:
    before = set(vars(tasks))
    with custom_modules(None):
        assert set(vars(tasks)) == before


def test_only_classes_of_that_very_module_are_let_in(layers: Path, tmp_path: Path) -> None:
    file = tmp_path / "foreign.pt"
    with custom_modules(layers):
        import squeeze_blocks  # type: ignore[import-not-found]

        torch.save({"model": squeeze_blocks.Gate(2), "path": os.getcwd}, file)
        with pytest.raises(CompressError, match=r"(posix|nt)\.getcwd") as caught:
            load_checkpoint(file)
        assert "squeeze_blocks" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("blocks.py", "import torch\n\nraise ValueError('no')\n", ":3: cannot be imported (ValueE"),
        ("blocks.py", "def f(:\n", ":1: cannot be imported (SyntaxError"),
        ("blocks.py", "import sys\nsys.exit(3)\n", ":2: cannot be imported (SystemExit"),
        ("blocks.py", "import torch\n", ": defines no layer"),
        ("blocks.py", "from torch.nn import Conv2d\n", ": defines no layer"),
        (
            "blocks.py",
            "from torch import nn\nclass Conv(nn.Module): pass\n",
            ": ultralytics has a 'Conv' of its own",
        ),
        ("my-blocks.py", "", ": 'my-blocks' is no name of a Python module"),
        ("json.py", "", ": another Python module is named 'json'"),
        ("antigravity.py", "", ": another Python module is named 'antigravity'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(text)
    before = set(vars(tasks)), set(sys.modules) - {"blocks"}
    with pytest.raises(CompressError) as caught, custom_modules(file):
        pass
    assert str(caught.value).startswith(f"{file}{words}")
    assert (set(vars(tasks)), set(sys.modules)) == before


RECIPE = """\
version: 1
model: gated.yaml
data: {data}
imgsz: 64
workers: 0
modules: {modules}
stages:
  - {{stage: train, train: {{epochs: 1, batch: 8}}}}
"""


def call(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*options])
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["run", "plan", "validate"])
def test_the_command_line_runs_the_file_only_where_it_may(
    command: str,
    layers: Path,
    gated_yaml: Path,
    data_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe, trace = tmp_path / "r.yaml", tmp_path / "it-ran"
    recipe.write_text(RECIPE.format(data=data_yaml, modules=layers.name))
    assert call("validate", str(recipe), "--recipe-only")[0] == 0
    code, told = call(command, str(recipe))
    assert code == 2
    assert told.startswith(f"{recipe}:6:10: {layers} holds layers of your own: its code would be")
    assert "allow it with --trust-modules" in told
    assert len(told.splitlines()) == 1
    assert not trace.exists()
    code, told = call(command, str(recipe), "--trust-modules")
    assert code == 0, told
    assert trace.exists() == (command != "plan")  # which opens no model


def test_a_file_of_layers_that_is_not_there_is_told(
    layers: Path, data_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(data=data_yaml, modules="gone.py").replace("gated", "yolov8n"))
    code, told = call("validate", str(recipe), "--trust-modules")
    assert code == 2
    assert told.startswith(f"{recipe}:6:10: the file of layers 'gone.py' is not there. Looked for:")
    places = [line.strip() for line in told.splitlines() if line.startswith("  ")]
    assert places == [str(tmp_path / "gone.py"), str(tmp_path / "here" / "gone.py")]


def test_own_layers_get_the_arguments_of_the_yaml_and_keep_their_channels(
    layers: Path, gated_yaml: Path
) -> None:
    with custom_modules(layers):
        model = build_model(gated_yaml, NAMES, 0)
    gate, behind = model.model[8], model.model[9]
    assert isinstance(gate.conv, nn.Conv2d)
    assert (gate.conv.in_channels, behind.cv1.conv.in_channels) == (64, 64)
