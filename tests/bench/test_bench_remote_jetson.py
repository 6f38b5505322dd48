"""A net measured on a simulated Jetson, from the ONNX file here to the table: the whole path."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_graphs import Conv, save_chain
from loopback_sshd import Sshd, needs_sshd, sshd_in
from simulated_jetson import VERSION, simulated_jetson
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.remote.run import bench_on_host
from bench.settings import Settings
from compress.cli import app
from compress.commands.bench.engines import read_source

pytestmark = [
    needs_sshd,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler"),
]
CONVS = [Conv("/model.0/conv/Conv", 3, 8), Conv("/model.1/conv/Conv", 8, 8)]
QUICK = Settings(
    device="jetson", min_seconds=0, min_count=11, warmup_seconds=0, energy_seconds=0.01
)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd_in(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", CONVS, shape=(1, 3, 4, 4))


def test_from_onnx_to_joules_an_image(sshd: Sshd, tmp_path: Path, net: Path) -> None:
    jetson = simulated_jetson(tmp_path / "jetson", "agx-orin")
    board = sshd.board(tmp_path / "board", jetson)
    options = [part for option in board.options for part in ("--ssh-option", option)]
    command = ["bench", str(net), "--device", "jetson", "--host", board.host, *options, "--json"]
    command += ["--min-seconds", "0", "--min-count", "11", "--energy-seconds", "0.01"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["host"] == board.host
    assert result["device"]["name"] == "jetson"
    assert "Orin" in result["device"]["facts"]["module"]
    [row] = result["rows"]
    assert (row["file"], row["label"]) == (str(net), "net")
    assert row["runtime"] == f"TensorRT {VERSION}"
    assert row["source_sha256"] == hashlib.sha256(net.read_bytes()).hexdigest()
    assert row["sha256"] != row["source_sha256"]
    assert set(row["parts_ms"]) == {"host_to_device", "compute", "device_to_host"}
    assert row["energy"]["joules_per_image"] > 0
    assert f"the engine was built there by TensorRT {VERSION}" in row["notes"]
    assert not board.jobs.exists()


def test_an_engine_that_cannot_be_built_is_the_boards_word(
    sshd: Sshd, tmp_path: Path, net: Path
) -> None:
    jetson = simulated_jetson(tmp_path / "jetson", "agx-orin")
    broken = {**jetson, "UNREADABLE": CONVS[1].name}
    board = sshd.board(tmp_path / "board", broken)
    with pytest.raises(BenchError, match=rf"{net}: .*'{CONVS[1].name}': no importer"):
        bench_on_host(board.host, [net], QUICK, ssh_options=board.options, read_source=read_source)
    assert not board.jobs.exists()


def test_a_board_without_tensorrt_is_told_before_anything_is_sent(
    sshd: Sshd, tmp_path: Path, net: Path
) -> None:
    board = sshd.board(tmp_path / "board")
    said: list[str] = []
    with pytest.raises(BenchError, match=r"lacks 'tensorrt': on a Jetson it comes with JetPack"):
        bench_on_host(
            board.host,
            [net],
            QUICK,
            ssh_options=board.options,
            read_source=read_source,
            tell=said.append,
        )
    assert not said
    assert not board.jobs.exists()
