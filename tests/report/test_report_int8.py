"""What the report says of INT8: noise of layers, tensors and mAP against the simulation."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_run import fake_run, quantized_run, write_run

from compress.report import document, int8, write_report

pytest.importorskip("matplotlib")

HEADINGS = (
    "What rounding each layer costs",
    "INT8 files against their simulation",
    "Tensors that differ most",
)


def report(folder: Path, run: dict[str, Any]) -> tuple[str, str]:
    markdown, html = write_report(write_run(folder, run))
    return markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return report(tmp_path_factory.mktemp("int8"), quantized_run())


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "find_spec", lambda name: None)


def test_layers_are_drawn_and_listed_the_noisiest_first(whole: tuple[str, str]) -> None:
    markdown, html = whole
    stage = quantized_run()["stages"][4]
    rows = stage["metrics"]["int8_sensitivity"]["rows"]
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", html)
    listed = [line.split(" | ")[0].strip("| ") for line in markdown.splitlines()]
    expected = [row["layer"] for row in sorted(rows, key=lambda row: float(row["sqnr"]))]
    start = listed.index("Layer in INT8") + 2
    assert listed[start : start + len(rows)] == expected
    assert [text for text in drawn if text in set(expected)] == expected
    assert {f"{row['sqnr']:.1f} dB" for row in rows} <= set(drawn)
    assert "noise at the outputs, % of their energy" in drawn
    assert "| model.0.cv1.conv | 30.0 | 0.607 | 0.0 | \N{EN DASH} |" in markdown
    assert "| model.1.cv1.conv | 37.0 | 0.607 | 0.0 | \N{MINUS SIGN}0.040 |" in markdown
    assert "| model.39.cv1.conv | 63.0 | 0.603 | \N{MINUS SIGN}0.4 | +0.340 |" in markdown


def test_tensors_are_told_file_by_file(whole: tuple[str, str]) -> None:
    markdown, html = whole
    assert "| int8-onnxruntime | 178 | 3 | 38.7 |" in markdown
    assert "| int8-tensorrt | 52 | 1 | 71.4 |" in markdown
    far = "/model.9/act/Mul_output_0"
    plain = markdown.replace("\\", "")
    assert f"| int8-onnxruntime | {far} | 0.21 | 3 | 0.042 % | 38.7 |" in plain
    assert "| int8-tensorrt | /model.1/act/Mul_output_0 | 0.0034 | 1 | 0 % | 71.4 |" in plain
    assert far in html


def test_simulated_map_stands_beside_the_files(whole: tuple[str, str]) -> None:
    for text in whole:
        cells = ("int8-onnxruntime", "qat", "0.604", "0.601", "\N{MINUS SIGN}0.3")
        between = r"(?:\s*\|\s*|</td><td[^>]*>)"
        assert re.search(between.join(map(re.escape, cells)), text)
    # of a file that was not rated nothing can be said
    assert [row.cells[0] for row in int8.simulated(quantized_run()).rows] == ["int8-onnxruntime"]


@pytest.mark.usefixtures("no_plots")
def test_a_run_without_int8_figures_has_no_such_sections(tmp_path: Path) -> None:
    run = fake_run()
    run["stages"] = run["stages"][:4]
    for text in report(tmp_path, run):
        assert not any(heading in text for heading in HEADINGS)


@pytest.mark.usefixtures("no_plots")
def test_without_matplotlib_tables_stand_in(tmp_path: Path) -> None:
    for text in report(tmp_path, quantized_run()):
        assert "<svg" not in text
        assert all(heading in text for heading in HEADINGS)
        assert "model.39.cv1.conv" in text


def without(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: without(item, key) for name, item in value.items() if name != key}
    return [without(item, key) for item in value] if isinstance(value, list) else value


KEYS = ("sqnr", "drop", "map50_95", "lost_ms", "steps", "worst", "moved", "tensors", "worst_steps")


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("key", KEYS)
def test_what_was_not_measured_leaves_a_gap_and_no_fault(tmp_path: Path, key: str) -> None:
    run = without(copy.deepcopy(quantized_run()), key)
    (tmp_path / "run.json").write_text(json.dumps(run))
    markdown, _ = write_report(tmp_path)
    assert "What rounding each layer costs" in markdown.read_text(encoding="utf-8")


def test_names_of_layers_and_tensors_are_shown_and_never_run(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    run = quantized_run()
    run["stages"][4]["metrics"]["int8_sensitivity"]["rows"][0]["layer"] = evil
    parity = run["stages"][6]["metrics"]["tensor_parity"]
    parity[evil] = parity.pop("int8-tensorrt")
    parity[evil]["worst"][0]["tensor"] = evil
    markdown, html = report(tmp_path, run)
    assert "<script" not in html
    assert not re.search(r"(?<!\\)<script", markdown)
