"""Devices' channel multiples: by name, in the recipe's range, as documented."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_graphs import Conv, save_chain
from typer.testing import CliRunner

from bench.alignment.profiles import ALIGNMENTS, alignment_document, alignment_of
from compress.cli import app
from compress.recipe.schema import BenchStage

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_a_recipe_may_name_any_device(name: str) -> None:
    assert BenchStage(stage="bench", align=name).align == alignment_of(name)


def test_an_unknown_device_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"jetson-int8.*rockchip.*got 'jetsn'"):
        alignment_of("jetsn")


def test_what_is_no_guess_has_a_source() -> None:
    for name, profile in ALIGNMENTS.items():
        assert profile.source or not profile.confirmed, name
        assert name == name.lower()
        assert profile.why


def test_the_document_is_that_of_the_table() -> None:
    document = ROOT / "docs" / "alignment.md"
    assert document.read_text() == alignment_document(), (
        "write it anew: python -m bench.alignment.profiles > docs/alignment.md"
    )


@pytest.mark.parametrize(("align", "code"), [("8", 0), ("jetson-fp16", 0), ("rockchip", 3)])
def test_bench_takes_a_number_or_a_device(tmp_path: Path, align: str, code: int) -> None:
    path = save_chain(tmp_path / "net.onnx", [Conv("first", 3, 8), Conv("last", 8, 5)])
    options = ["--min-seconds", "0", "--min-count", "11", "--align", align]
    result = CliRunner().invoke(app, ["bench", str(path), *options])
    assert result.exit_code == code
    if code:
        assert "multiple of 32" in result.stderr


def test_bench_refuses_a_device_that_it_does_not_know(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(tmp_path / "x.onnx"), "--align", "8x"])
    assert result.exit_code == 2
    assert "--align" in result.stderr
    assert "hexagon" in result.stderr
