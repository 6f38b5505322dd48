"""A profile's rows from times and graph facts, on numbers made by hand."""

from __future__ import annotations

import pytest

from bench.profile.rows import (
    NO_MODULE,
    changes_between,
    heaviest,
    not_in_int8,
    rows_of,
    slow_for_their_work,
    untimed,
)
from bench.work import NetWork, Work


def work(module: str, macs: int, int8: bool = False, kind: str = "conv 3x3 s1") -> Work:
    return Work(f"/{module}/Conv", module, kind, 16, macs, int8, 1, 1, 1)


NET = NetWork(
    layers=(
        work("a", 40_000_000),
        work("b", 20_000_000, int8=True),
        work("c", 10_000_000),
        work("d", 1_000_000, int8=True),
    ),
    operators={
        "a": ["Conv", "Sigmoid", "Mul"],
        "cat": ["Concat", "QuantizeLinear", "DequantizeLinear"],
        "head": ["Mul", "Mul", "Add", "Sub", "Div"],
    },
)
TIMES = {
    "/a/conv/Conv": 3.0,
    "/a/act/Mul": 1.0,
    "/b/conv/Conv": 0.5,
    "/c/Conv": 2.0,
    "/cat/Concat": 0.5,
    "/head/Mul": 0.25,
    "ReorderInput": 1.0,
    "ReorderOutput": 0.5,
    "Squeeze": 0.25,
}


def test_rows_are_modules_by_time_and_nothing_is_dropped() -> None:
    rows = rows_of(TIMES, NET)
    assert [row.module for row in rows] == [
        "a",
        "c",
        "layout changes",
        "b",
        "cat",
        "head",
        NO_MODULE,
    ]
    assert sum(row.ms for row in rows) == sum(TIMES.values())
    assert sum(row.operators for row in rows) == len(TIMES)
    assert rows[-1].cumulated == pytest.approx(1)
    assert rows[1].share == pytest.approx(2 / 9)
    assert rows[1].cumulated == pytest.approx(6 / 9)


def test_speed_is_set_against_the_best_of_the_same_precision() -> None:
    rows = {row.module: row for row in rows_of(TIMES, NET)}
    assert rows["a"].gmacs_per_s == pytest.approx(10)  # 40 MMACs in 4 ms
    assert (rows["a"].of_best, rows["a"].precision) == (1, "float")
    assert rows["c"].of_best == pytest.approx(0.5)
    assert (rows["b"].of_best, rows["b"].precision) == (1, "int8")
    assert rows["layout changes"].gmacs_per_s is None
    assert (rows["cat"].precision, rows["cat"].outputs) == ("", None)


def test_layers_that_ran_in_float_are_set_against_float_whatever_the_file_says() -> None:
    rows = {row.module: row for row in rows_of(TIMES, NET, {"/b/conv/Conv": {False}})}
    assert (rows["b"].precision, rows["b"].in_file) == ("float", "int8")
    assert rows["b"].of_best == 1  # 20 MMACs in 0.5 ms, and now the best of the floats
    assert rows["a"].of_best == pytest.approx(0.25)
    assert [row.module for row in not_in_int8(list(rows.values()))] == ["b"]
    assert not_in_int8(rows_of(TIMES, NET, {"/b/conv/Conv": {True}})) == []


def test_a_layer_of_no_time_sets_no_best_speed() -> None:
    rows = {row.module: row for row in rows_of({"/a/Conv": 10.0, "/c/Conv": 0.001}, NET)}
    assert rows["a"].of_best == 1


def test_kinds_are_those_of_the_work_or_else_of_the_operators() -> None:
    rows = {row.module: row.kind for row in rows_of(TIMES, NET)}
    assert rows["a"] == "conv 3x3 s1"
    assert rows["cat"] == "Concat"
    assert rows["head"] == "2x Mul, Add, Sub, ..."
    assert rows["layout changes"] == rows[NO_MODULE] == ""


def test_one_module_may_hold_several_layers() -> None:
    net = NetWork((work("a", 10**6), work("a", 10**6, int8=True), work("a", 0, kind="matmul")), {})
    [row] = rows_of({"/a/Conv": 1.0}, net)
    assert (row.kind, row.precision, row.macs) == ("2x conv 3x3 s1, matmul", "mixed", 2 * 10**6)


def test_without_a_graph_times_are_all_there_is() -> None:
    rows = rows_of(TIMES, None)
    assert sum(row.ms for row in rows) == sum(TIMES.values())
    assert {(row.kind, row.macs, row.gmacs_per_s) for row in rows} == {("", 0, None)}


def test_work_without_a_time_is_named() -> None:
    assert untimed(TIMES, NET) == ["d"]
    assert untimed({**TIMES, "/d/Conv": 1.0}, NET) == []


def test_the_fewest_rows_that_take_a_share() -> None:
    rows = rows_of({"/a/X": 5.0, "/b/X": 3.0, "/c/X": 2.0}, None)
    assert [row.module for row in heaviest(rows, 0.5)] == ["a"]
    assert [row.module for row in heaviest(rows, 0.6)] == ["a", "b"]


def test_slow_layers_are_those_far_from_the_best() -> None:
    times = {"/a/Conv": 4.0, "/c/Conv": 10.0}
    assert [row.module for row in slow_for_their_work(rows_of(times, NET), 0.25)] == ["c"]
    assert slow_for_their_work(rows_of(TIMES, NET), 0.25) == []


def test_changes_are_by_module_the_largest_first() -> None:
    base = rows_of({"/a/Conv": 4.0, "/c/Conv": 1.0, "/gone/X": 0.5}, NET)
    other = rows_of({"/a/Conv": 3.5, "/c/Conv": 3.0, "ReorderInput": 0.25}, None)
    changes = changes_between(base, other)
    assert [(change.module, change.difference) for change in changes] == [
        ("c", 2.0),
        ("a", -0.5),
        ("gone", -0.5),
        ("layout changes", 0.25),
    ]
    assert (changes[2].ms, changes[3].base_ms) == (None, None)
    assert (changes[0].base_precision, changes[0].precision) == ("float", "")
