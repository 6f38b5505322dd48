"""What the report reads out of ``run.json``."""

from __future__ import annotations

from typing import Any

import pytest
from fake_run import fake_run, stopped_after
from rich.console import Console

from compress.report import summary_table, tables
from compress.report.figures import base_model, graphs, models, result_model
from compress.report.findings import headline, missing

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def printed(run: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(run))
    return [line.rstrip() for line in capture.get().splitlines()]


def without_bench(run: dict[str, Any]) -> dict[str, Any]:
    return {**run, "stages": run["stages"][:-1]}


def test_one_model_a_stage_that_gave_a_checkpoint() -> None:
    found = models(fake_run())
    assert [model.name for model in found] == ["base", "teacher", "prune", "finetune", "qat"]
    base, teacher, _, finetune, qat = found
    assert (base.params, base.macs) == (3_011_433, 1_011_712_000)
    assert teacher.graph is None
    assert finetune.graph
    assert finetune.graph.name == "finetune"
    assert qat.graph
    assert (qat.graph.name, qat.graph.precision) == ("int8-onnxruntime", "int8")
    assert qat.on("test").map50_95 == pytest.approx(0.593)


def test_the_int8_file_stands_for_its_stage_unless_the_bench_says_otherwise() -> None:
    run = fake_run()
    run["stages"][-1]["metrics"]["bench"]["result"] = "qat"
    assert models(run)[-1].graph == next(graph for graph in graphs(run) if graph.name == "qat")


def test_differences_are_those_of_exported_files_where_both_are_known() -> None:
    run = fake_run()
    base = base_model(run)
    assert models(run)[-1].drop(base) == pytest.approx(0.601 - 0.612)
    assert models(without_bench(run))[-1].drop(base_model(without_bench(run))) == pytest.approx(
        0.604 - 0.612
    )


def test_files_that_no_bench_measured_are_listed_with_their_size() -> None:
    tensorrt = graphs(fake_run())[-1]
    assert (tensorrt.name, tensorrt.stage, tensorrt.precision) == ("int8-tensorrt", "qat", "int8")
    assert tensorrt.bytes == 4_210_000
    assert tensorrt.p50 is None
    exported = graphs(without_bench(fake_run()))
    assert [graph.stage for graph in exported] == ["base", "prune", "finetune", "qat", "qat", "qat"]


def test_a_teacher_is_never_the_result() -> None:
    run = stopped_after(fake_run(), "teacher", "stopped")
    assert result_model(run) == base_model(run)
    assert headline(run) == []


def test_the_headline_compares_the_result_with_the_base() -> None:
    found = {finding.title: finding for finding in headline(fake_run())}
    assert found["Faster"].value == f"3.40{TIMES}"
    assert found["Smaller"].detail == "12.0 to 1.18 MB exported file"
    assert found["Less computation"].value == f"2.50{TIMES}"
    assert found["mAP50-95, val"].value == f"{MINUS}1.1 points"
    assert found["mAP50-95, test"].detail == "0.604 to 0.593, exported file"
    assert (found["Gates"].value, found["Gates"].good) == ("4 of 4", True)


def test_a_slower_result_is_not_called_good() -> None:
    run = fake_run()
    run["stages"][-1]["metrics"]["bench"]["rows"][-1]["latency_ms"]["p50"] = 50.0
    faster = next(finding for finding in headline(run) if finding.title == "Faster")
    assert faster.good is False


def test_what_is_missing_is_said() -> None:
    planned = ["base", "prune", "export", "bench"]
    assert missing(fake_run()) == [
        "Latency of files for a runtime not measured here: int8-tensorrt."
    ]
    early = missing(stopped_after(fake_run(), "prune", ""), planned)
    assert early == [
        "Stages that did not run: export, bench.",
        "No exported file: its size, latency and mAP are unknown.",
    ]
    assert "No bench" in missing(without_bench(fake_run()))[0]
    unrated = fake_run()
    del unrated["stages"][2]["metrics"]["map50_95"]
    assert missing(unrated)[-1] == "Without mAP in PyTorch: prune."


def test_a_missed_gate_stands_out_with_advice() -> None:
    run = fake_run()
    run["stages"][6]["gates"][2]["passed"] = False
    *passed, missed = tables.gates(run).rows
    assert missed.cells[1:4] == ("file size, share", "9.7 %", "at most 10.0 %")
    assert missed.cells[-1] == "missed. To try: train longer (train.epochs)"
    assert [row.stands_out for row in (*passed, missed)] == [False, False, False, True]


def test_lineage_names_every_file_and_what_it_was_made_of() -> None:
    run = fake_run()
    rows = {row.cells[1]: row.cells for row in tables.lineage(run).rows}
    assert len(rows) == sum(len(stage["files"]) for stage in run["stages"])
    student = rows["04-finetune/model.pt"]
    assert student[2] == run["stages"][3]["files"]["checkpoint"]["sha256"][: tables.SHORT_HASH]
    assert "prune/checkpoint (" in student[3]
    assert "teacher/checkpoint (" in student[3]


def test_the_terminal_table_fits_80_columns_whole() -> None:
    lines = printed(fake_run())
    assert max(map(len, lines)) <= 80
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in lines)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    accuracies = ".905/.612 .905/.612 .895/.604"
    assert rows["base"] == f"3.01M 1.01G 12.0 {accuracies} 0.0 31.4 31.8 1.00{TIMES}"
    accuracies = ".897/.604 .894/.601 .884/.593"
    assert rows["qat"] == f"1.02M 405M 1.18 {accuracies} {MINUS}1.1 9.23 108 3.40{TIMES}"


@pytest.mark.parametrize("run", [{}, {"stages": None}, {"stages": [{"name": "base"}]}])
def test_a_run_without_results_has_an_empty_table(run: dict[str, Any]) -> None:
    assert summary_table(run).row_count == 0
