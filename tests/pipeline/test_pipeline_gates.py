from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_fakes import recipe

from compress.errors import CompressError
from compress.pipeline.gates import GateResult, check_gates
from compress.pipeline.links import link_steps


def gates(name: str, accept: dict[str, Any], metrics: dict[str, Any]) -> list[GateResult]:
    of = recipe({name: {"accept": accept}})
    (step,) = (step for step in link_steps(of) if step.name == name)
    return check_gates(step, metrics)


def on_map(value: float, reference: float, max_drop: float) -> GateResult:
    accept = {"map50_95": {"max_drop": max_drop}}
    measured = {"base": {"map50_95": reference}, "finetune": {"map50_95": value}}
    (result,) = gates("finetune", accept, measured)
    return result


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_passes_exactly_when_the_drop_is_within_the_gate(
    value: float, reference: float, drop: float
) -> None:
    assert on_map(value, reference, drop).passed == (reference - value <= drop + 1e-9)


def test_a_drop_of_just_the_limit_passes() -> None:
    assert on_map(0.60, 0.61, 0.01).passed


def test_miss_says_by_how_much_and_what_to_try() -> None:
    result = on_map(0.50, 0.60, 0.02)
    assert not result.passed
    assert "0.0800" in str(result)
    assert "train.epochs" in str(result)
    assert (result.metric, result.against) == ("map50_95", "base")
    assert result.limit == pytest.approx(0.58)


def test_gate_against_another_stage() -> None:
    metrics = {"teacher": {"map50": 0.9}, "qat": {"map50": 0.7}}
    accept = {"map50": {"max_drop": 0.3, "against": "teacher"}}
    assert gates("qat", accept, metrics)[0].passed


def test_unmeasured_is_an_error_not_a_pass() -> None:
    accept = {"map50": {"max_drop": 0.1}}
    with pytest.raises(CompressError, match="'qat' did not measure it"):
        gates("qat", accept, {"base": {"map50": 0.9}, "qat": {"map50": None}})
    with pytest.raises(CompressError, match="compares against 'base', which was not measured"):
        gates("qat", accept, {"qat": {"map50": 0.9}})


BLAME = [{"layer": f"model.{n}.conv", "parent_ms": 1.0, "ms": 1.5} for n in range(9)]


def on_time(low: float, high: float, **accept: Any) -> list[GateResult]:
    timing = {"speedup_ci": [low, high], "blame": BLAME}
    return gates("prune", accept, {"base": {}, "prune": {"timing": timing}})


@pytest.mark.parametrize(("high", "passed"), [(0.99, False), (1.0, True), (1.3, True)])
def test_never_slower_misses_only_what_is_slower_beyond_noise(high: float, passed: bool) -> None:
    (result,) = on_time(0.9, high)
    assert (result.metric, result.against, result.passed) == ("never_slower", "base", passed)


def test_slower_is_told_with_the_layers_to_blame() -> None:
    (result,) = on_time(0.7, 0.8)
    assert "model.0.conv (1 -> 1.5 ms)" in str(result)
    assert "model.8.conv" not in str(result)


def test_never_slower_can_be_switched_off_and_is_no_pass_where_nothing_was_timed() -> None:
    assert on_time(0.1, 0.2, never_slower=False) == []
    with pytest.raises(CompressError, match="'prune' has the gate never_slower, but did not"):
        gates("prune", {}, {"base": {}, "prune": {}})


ROWS = [
    {
        "graph": "base",
        "stage": "base",
        "precision": "fp32",
        "bytes": 1000,
        "speedup": 1.0,
        "map": {"val": {"map50": 0.8, "map50_95": 0.6}},
    },
    {
        "graph": "int8-onnxruntime",
        "stage": "base",
        "precision": "int8",
        "bytes": 250,
        "speedup": 2.0,
        "map": {"val": {"map50": 0.7, "map50_95": 0.55}},
    },
]


def on_bench(**accept: Any) -> GateResult:
    bench = {"rows": ROWS, "result": "int8-onnxruntime"}
    (result,) = gates("bench", accept, {"base": {}, "bench": {"bench": bench}})
    return result


@pytest.mark.parametrize(
    ("loose", "tight"),
    [
        ({"min_speedup": 2.0}, {"min_speedup": 2.1}),
        ({"max_size_share": 0.25}, {"max_size_share": 0.24}),
        ({"map50_95": {"max_drop": 0.051}}, {"map50_95": {"max_drop": 0.049}}),
        ({"map50": {"max_drop": 0.11}}, {"map50": {"max_drop": 0.09}}),
    ],
)
def test_bench_gates_look_at_the_result_and_the_base(
    loose: dict[str, Any], tight: dict[str, Any]
) -> None:
    assert on_bench(**loose).passed
    assert not on_bench(**tight).passed


PARENT = {
    "graph": "qat@openvino",
    "float_convs": [f"model.{n}.conv" for n in range(12)],
    "blame": BLAME,
}


@pytest.mark.parametrize(("high", "passed"), [(0.99, False), (1.0, True), (2.4, True)])
def test_an_int8_file_must_not_be_slower_than_its_float_parent(high: float, passed: bool) -> None:
    row = {**ROWS[1], "graph": "int8-openvino", "parent": {**PARENT, "speedup_ci": [0.5, high]}}
    bench = {"rows": [*ROWS, row], "result": "int8-onnxruntime"}
    (result,) = gates("bench", {}, {"base": {}, "bench": {"bench": bench}})
    assert (result.metric, result.against) == ("never_slower", "qat@openvino")
    assert result.passed == passed
    if not passed:
        assert "stayed float: model.0.conv" in str(result)
        assert "and 4 more" in str(result)
        assert "model.0.conv (1 -> 1.5 ms)" in str(result)
    accept = {"never_slower": False}
    assert gates("bench", accept, {"base": {}, "bench": {"bench": bench}}) == []


def test_no_gates_no_results() -> None:
    assert gates("qat", {}, {"qat": {}}) == []
    step = link_steps(recipe())[5]
    assert step.name == "export"
    assert check_gates(step, {"export": {}}) == []
