"""The floor of a net on a board, on numbers made by hand; boards, their document, the command."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from bench_graphs import Conv, save_chain
from typer.testing import CliRunner

from bench.roofline.boards import BOARDS, Board, boards_document
from bench.roofline.floor import floor_of
from bench.work import Work
from compress.cli import app

ROOT = Path(__file__).resolve().parents[2]
BOARD = Board("a board", "MAXN", "GPU", 2, 1, 1, "nowhere", False)
NO_INT8 = Board("an old board", "MAXN", "GPU", None, 1, 1, "nowhere", False)


def work(macs: int, int8: bool, sizes: tuple[int, int, int]) -> Work:
    return Work("/a/Conv", "a", "conv 3x3 s1", 16, macs, int8, *sizes)


LAYERS = [
    work(500_000_000, False, (10_000, 20_000, 70_000)),  # 1 ms of FP16, 0.1 ms of memory
    work(500_000_000, True, (100_000, 300_000, 600_000)),  # 0.5 ms of INT8, 1 ms of memory
]


def test_a_layer_takes_the_longer_of_arithmetic_and_memory() -> None:
    floor = floor_of(LAYERS, BOARD)
    assert [layer.compute_ms for layer in floor.layers] == pytest.approx([1, 0.5])
    assert [layer.memory_ms for layer in floor.layers] == pytest.approx([0.1, 1])
    assert [layer.compute_bound for layer in floor.layers] == [True, False]
    assert floor.by_layers_ms == pytest.approx(2)
    assert floor.compute_bound_share == pytest.approx(0.5)


def test_at_least_counts_all_arithmetic_or_weights_and_image() -> None:
    assert floor_of(LAYERS, BOARD).least_ms == pytest.approx(1.5)
    idle = [work(1, False, (600_000, 400_000, 10**9))]
    assert floor_of(idle, BOARD).least_ms == pytest.approx(1)


def test_nothing_is_faster_than_the_least() -> None:
    for board in (BOARD, NO_INT8, *BOARDS.values()):
        floor = floor_of(LAYERS, board)
        assert 0 < floor.least_ms <= floor.by_layers_ms


def test_without_int8_the_peak_is_that_of_fp16() -> None:
    assert floor_of(LAYERS, NO_INT8).layers[1].compute_ms == pytest.approx(1)


def test_boards_have_sources_and_dense_peaks_of_one_unit() -> None:
    for name, board in BOARDS.items():
        assert board.source, name
        assert name == name.lower()
        assert name.endswith("-dla") == (board.unit != "GPU")
        assert board.int8_tops is None or board.int8_tops >= board.fp16_tflops
    assert {name for name, board in BOARDS.items() if board.int8_tops is None} == {"nano", "tx2"}
    assert BOARDS["orin-nano-8gb"].int8_tops == 40 / 2  # the data sheet's 40 are sparse
    assert BOARDS["agx-orin-64gb-dla"].int8_tops == pytest.approx(105 / 2 / 2, abs=0.1)


def test_the_document_is_that_of_the_table() -> None:
    assert (ROOT / "docs" / "roofline.md").read_text() == boards_document(), (
        "write it anew: python -m bench.roofline.boards > docs/roofline.md"
    )


def roofline(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["bench", "roofline", *arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def net(tmp_path: Path) -> Path:
    convs = [Conv("/model.0/conv/Conv", 3, 16), Conv("/model.1/conv/Conv", 16, 16)]
    return save_chain(tmp_path / "net.onnx", convs, quantized=True)


def test_the_command_prints_an_estimate_of_every_board(net: Path) -> None:
    code, text, _ = roofline(str(net))
    assert code == 0
    assert text.startswith("ESTIMATE")
    assert "NOT a measurement" in text
    rows = {line.split()[0] for line in text.splitlines() if line}
    assert BOARDS.keys() <= rows
    assert "No INT8 arithmetic on nano, tx2" in text


def test_chosen_boards_and_the_json_document(net: Path) -> None:
    code, text, _ = roofline(str(net), "--board", "nano", "--board", "agx-orin-64gb", "--json")
    assert code == 0
    found = json.loads(text)
    assert "NOT a measurement" in found["warning"]
    assert found["macs"] == 64 * (48 + 256)
    nano, orin = found["estimates"]
    assert (nano["name"], orin["name"]) == ("nano", "agx-orin-64gb")
    first, second = (board["estimate"]["layers"][0] for board in (nano, orin))
    assert (first["int8"], first["weight_bytes"]) == (False, 96)  # halves: it has no INT8
    assert (second["int8"], second["weight_bytes"]) == (True, 48)
    assert first["compute_ms"] == pytest.approx(2 * 64 * 48 / 0.472e12 * 1e3)


def test_one_board_names_the_longest_layers(net: Path) -> None:
    _, text, _ = roofline(str(net), "--board", "agx-thor")
    assert "Longest layers: model." in text
    assert "(memory)" in text


def test_an_engine_counts_as_the_onnx_file_that_it_was_built_of(net: Path) -> None:
    engine = net.with_name("built.engine")
    engine.write_bytes(b"an engine")
    code, _, error = roofline(str(engine))
    assert code == 2
    assert "read from .onnx files" in error
    digest = hashlib.sha256(net.read_bytes()).hexdigest()
    engine.with_name("built.engine.json").write_text(json.dumps({"onnx_sha256": digest}))
    code, text, _ = roofline(str(engine), "--board", "nano")
    assert code == 0
    assert "built.engine: 0.00 GMACs, 100% of them INT8" in text


def test_faults_are_told_in_one_line(net: Path, tmp_path: Path) -> None:
    open_net = save_chain(tmp_path / "open.onnx", [Conv("stem", 3, 8)], shape=(1, 3, "h", "w"))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(net.read_bytes()[:-40])
    for arguments, message in {
        (str(net), "--board", "orin"): "Board 'orin' is not known; known are nano",
        (str(open_net),): "leaves dimensions of its input 'images' open",
        (str(damaged),): "damaged.onnx",
        (str(tmp_path / "net.xml"),): "read from .onnx files",
    }.items():
        code, _, error = roofline(*arguments)
        assert (code, "Traceback" in error) == (2, False)
        assert message in error
    assert roofline(str(open_net), "--shape", "1,3,8,8", "--board", "nano")[0] == 0
