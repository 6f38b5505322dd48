"""ONNX files that TensorRT runs on this machine: engines are built once and kept."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_graphs import Conv, save_chain

import bench.devices.choose
from bench.builds import needs_engine
from bench.errors import BenchError
from bench.onnx_file import source_hash
from bench.settings import Settings
from compress.commands.bench.engines import read_source, with_engines
from compress.errors import CompressError
from export.board_build import main
from export.errors import ExportError

sys.path.append(str(Path(__file__).parents[1] / "export"))
from fake_tensorrt import fake

CONVS = [Conv("/model.0/conv/Conv", 3, 8), Conv("/model.1/conv/Conv", 8, 8)]
JETSON = Settings(device="jetson")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", CONVS, shape=("n", 3, 8, 8))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compress" / "engines"


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = fake("10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(bench.devices.choose, "device_of", lambda *_: None)
    return module


def batch_of(images: int) -> Settings:
    return Settings(device="jetson", shape=[images, 3, 8, 8])


@pytest.mark.parametrize(
    ("name", "runtime", "device", "needed"),
    [
        ("net.onnx", None, "jetson", True),
        ("net.onnx", "tensorrt", "cuda", True),
        ("net.onnx", None, "cuda", False),
        ("net.onnx", "onnxruntime", "jetson", False),
        ("net.onnx", "tensorrt", "cpu", False),
        ("net.engine", "tensorrt", "jetson", False),
    ],
)
def test_which_files_need_an_engine(
    name: str, runtime: str | None, device: str, needed: bool
) -> None:
    assert needs_engine(Path(name), runtime, device) == needed


def test_an_engine_is_built_once_for_each_net_and_shape(net: Path, cache: Path, trt: Any) -> None:
    said: list[str] = []
    other = net.with_name("other.engine")
    [engine, same] = with_engines([net, other], None, batch_of(1), said.append)
    assert same == other
    assert cache in engine.parents
    assert engine.with_suffix(".onnx").read_bytes() == net.read_bytes()
    assert with_engines([net], None, batch_of(1), said.append) == [engine]
    assert len(trt.built) == len(said) == 1
    assert with_engines([net], None, batch_of(2), said.append) != [engine]
    assert source_hash(engine) == hashlib.sha256(net.read_bytes()).hexdigest()
    engine.write_bytes(b"half")
    assert source_hash(engine) is None
    assert with_engines([net], ["tensorrt"], batch_of(1), said.append) == [engine]
    assert len(trt.built) == 3


def test_files_that_need_none_need_no_tensorrt(net: Path, cache: Path) -> None:
    assert with_engines([net], ["onnxruntime"], JETSON, print) == [net]
    assert not cache.exists()


def test_a_machine_without_the_device_is_told_first(net: Path, cache: Path) -> None:
    with pytest.raises(BenchError, match=r"--host"):
        with_engines([net], None, JETSON, print)
    assert not cache.exists()


def test_an_engine_of_a_gpu_that_it_would_not_run_on_is_refused(
    net: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.devices.choose.device_of", lambda *_: None)
    with pytest.raises(CompressError, match="CUDA_VISIBLE_DEVICES=1"):
        with_engines([net], ["tensorrt"], Settings(device="cuda", index=1), print)
    assert not cache.exists()


def test_a_board_builds_without_the_onnx_package(
    net: Path, trt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = read_source(net)
    monkeypatch.setitem(sys.modules, "onnx", None)
    source, wanted = net.with_name("source.json"), net.with_name("settings.json")
    source.write_text(json.dumps(facts))
    wanted.write_text(json.dumps({"shape": [1, 3, 8, 8]}))
    with pytest.raises(ModuleNotFoundError):
        read_source(net)
    engine = net.with_suffix(".engine")
    assert main(str(source), str(engine), str(wanted)) == 0
    assert trt.built[0]["shapes"] == [{"images": [(1, 3, 8, 8)] * 3}]
    built = json.loads(engine.with_name(f"{engine.name}.json").read_text())
    assert built["onnx_sha256"] == hashlib.sha256(net.read_bytes()).hexdigest()
    modules = [layer["modules"] for layer in built["float_layers"]]
    assert modules == [["model.0"], ["model.1"]]


@pytest.mark.parametrize(
    ("source", "message"),
    [(None, "cannot be read"), ("[]", "not the facts"), ('{"path": "gone.onnx"}', "gone.onnx")],
)
def test_damaged_facts_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str | None, message: str
) -> None:
    path = tmp_path / "source.json"
    if source is not None:
        path.write_text(source)
    (tmp_path / "settings.json").write_text('{"shape": null}')
    assert main(str(path), str(tmp_path / "e"), str(tmp_path / "settings.json")) == 2
    line = capsys.readouterr().err
    assert line.startswith('@fault {"error"')
    assert message in line


def test_an_unreadable_file_is_told_here(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no net")
    with pytest.raises(ExportError, match="not a readable ONNX file"):
        read_source(tmp_path / "net.onnx")
