"""PyTorch in the bench: checkpoints as stock users run them, and TorchScript."""

from __future__ import annotations

import json
import pickle
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.run import bench_files
from bench.runtimes.torch_module import TorchModule
from bench.settings import Settings
from compress.commands.bench.torch_loader import load_torch
from compress.errors import CompressError
from compress.models.checkpoint import save_checkpoint

SHAPE = [1, 3, 64, 64]
SHORT = Settings(min_seconds=0, min_count=1, warmup_seconds=0, energy_seconds=0, shape=SHAPE)


@pytest.fixture
def checkpoint(net: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    save_checkpoint(net, path)
    return path


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "net.torchscript"
    torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU())).save(str(path))
    return path


def test_a_checkpoint_runs_fused_and_gives_boxes(net: nn.Module, checkpoint: Path) -> None:
    values = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(values))[0].numpy()
    before = torch.get_num_threads()
    with load_torch(checkpoint, Settings(threads=before + 1, shape=SHAPE)) as runtime:
        assert torch.get_num_threads() == before + 1
        runtime.infer()
        runtime.feed(values)
        runtime.infer()
        [boxes] = runtime.outputs()
        assert np.allclose(boxes, expected, atol=1e-3)
        assert runtime.input_shape == tuple(SHAPE)
        assert runtime.runtime == f"PyTorch {torch.__version__.split('+')[0]}"
        assert (runtime.device, runtime.float_type, runtime.notes) == ("CPU", "f32", [])
        assert runtime.parts_ns() == {}
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="outside of the with block"):
        runtime.infer()


def test_torchscript_stands_beside_its_checkpoint(checkpoint: Path, script: Path) -> None:
    result = bench_files(
        [checkpoint, script], SHORT, labels=["a", "b"], loaders={"torch": load_torch}
    )
    assert [row["runtime"].split()[0] for row in result["rows"]] == ["PyTorch"] * 2
    assert json.loads(json.dumps(result)) == result
    [row] = bench_files([script], SHORT)["rows"]
    assert row["label"] == "net@torch"


def test_nested_outputs_are_flattened(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x, [{"a": x + 1, "none": None}, (x + 2,)]

    path = tmp_path / "net.pt"
    path.touch()
    with TorchModule(path, shape=[1, 2], load=lambda _: Nested()) as runtime:
        runtime.feed(np.zeros((1, 2), np.float32))
        runtime.infer()
        assert [out[0, 0] for out in runtime.outputs()] == [0, 1, 2]


def test_without_a_shape_nothing_says_the_size(checkpoint: Path) -> None:
    with pytest.raises(BenchError, match=r"does not say the size.*--shape 1,3,640,640"):
        load_torch(checkpoint, Settings()).__enter__()


def test_a_shape_that_fails_inside_the_net_is_one_sentence(checkpoint: Path) -> None:
    with (
        load_torch(checkpoint, Settings(shape=[1, 4, 64, 64])) as runtime,
        pytest.raises(BenchError, match=r"net\.pt' fails in PyTorch .*\[1, 4, 64, 64\]"),
    ):
        runtime.infer()


@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_damaged_files_are_refused_by_name(checkpoint: Path, script: Path, kept: float) -> None:
    for path, error in ((checkpoint, CompressError), (script, BenchError)):
        content = path.read_bytes()
        path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
        with pytest.raises(error, match=f"{path.name}.*(damaged|not a readable)"):
            load_torch(path, SHORT).__enter__()


def test_a_checkpoint_runs_no_foreign_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "evil.pt"
    torch.save({"model": Evil()}, path, pickle_module=pickle)
    with pytest.raises(CompressError, match="refused before loading"):
        load_torch(path, SHORT).__enter__()
    assert not (tmp_path / "ran").exists()


def test_what_is_missing_is_said(
    checkpoint: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BenchError, match="does not exist"):
        load_torch(checkpoint.with_name("gone.pt"), SHORT).__enter__()
    with pytest.raises(BenchError, match=r"is no \.torchscript file"):
        TorchModule(checkpoint, shape=SHAPE).__enter__()
    with pytest.raises(BenchError, match=r"sees \d+ GPUs, so no GPU 99"):
        TorchModule(script, shape=SHAPE, gpu=99).__enter__()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BenchError, match=r"pip install 'yolo-compress\[train\]'"):
        TorchModule(script, shape=SHAPE).__enter__()


class FakeEvent:
    """Events 1 ms apart, told only once the stream was waited for."""

    clock = 0
    waited = False

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        FakeEvent.clock, FakeEvent.waited = FakeEvent.clock + 1, False
        self.at = FakeEvent.clock

    def elapsed_time(self, end: FakeEvent) -> float:
        assert FakeEvent.waited
        return float(end.at - self.at)


def test_on_a_gpu_parts_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        FakeEvent.waited = True

    def empty(shape: Any, dtype: Any, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        return torch.full(shape, torch.nan, dtype=dtype)

    stream = SimpleNamespace(synchronize=wait)
    cuda = SimpleNamespace(
        Event=FakeEvent,
        Stream=lambda device: stream,
        stream=lambda current: nullcontext(),
        device_count=lambda: 2,
        get_device_name=lambda device: f"Fake {device}",
    )
    fake = SimpleNamespace(**{**vars(torch), "cuda": cuda, "empty": empty})
    fake.device = lambda name: torch.device("cpu" if name == "cpu" else "meta")
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: tensor.clone())
    path = tmp_path / "net.pt"
    path.touch()
    with TorchModule(path, shape=[1, 2], gpu=1, load=lambda _: nn.Identity()) as runtime:
        for value in (1.0, 2.0):
            runtime.feed(np.full((1, 2), value, np.float32))
            runtime.infer()
            assert runtime.outputs()[0].tolist() == [[value, value]]
        assert set(runtime.parts_ns()) == {"host_to_device", "compute", "device_to_host"}
        assert set(runtime.parts_ns().values()) == {1_000_000}
        assert runtime.device.startswith("Fake")
        assert bool(runtime.notes) == torch.backends.cudnn.allow_tf32

    def fail(tensor: torch.Tensor) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "pin_memory", fail)
    with pytest.raises(BenchError, match=r"net\.pt' cannot be put on GPU 1 .*out of memory"):
        TorchModule(path, shape=[1, 2], gpu=1, load=lambda _: nn.Identity()).__enter__()


def test_pytorch_has_the_names_that_only_a_gpu_needs() -> None:
    for name in ("Event", "Stream", "device_count", "get_device_name", "stream"):
        assert hasattr(torch.cuda, name)
    assert {"record", "elapsed_time"} <= set(dir(torch.cuda.Event))
    assert hasattr(torch.cuda.Stream, "synchronize")


def test_the_command_line_measures_a_checkpoint(checkpoint: Path) -> None:
    from compress.cli import app

    options = ["--shape", "1,3,64,64", "--min-seconds", "0", "--min-count", "1", "--json"]
    done = CliRunner().invoke(app, ["bench", str(checkpoint), *options])
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)["rows"]
    assert row["runtime"].startswith("PyTorch")
