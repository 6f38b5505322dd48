"""Two results against each other: what is noise, what is slower, what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_results import result_of, samples_of
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.results.compare import BASE, FASTER, SAME, SLOWER, TOO_FEW, compare, time_ratio
from bench.results.files import write_result
from bench.results.schema import BenchResult
from bench.results.text import render_comparison
from compress.cli import app


def run_of(seed: int, **times: float) -> BenchResult:
    return result_of(
        {name: samples_of(time, seed + place) for place, (name, time) in enumerate(times.items())}
    )


def verdicts(before: BenchResult, after: BenchResult, **options: Any) -> dict[str, str]:
    return {each.label: each.verdict for each in compare(before, after, **options).changes}


def test_slower_faster_and_same() -> None:
    before = run_of(0, base=4.0, slow=2.0, fast=3.0)
    after = run_of(10, base=4.0, slow=2.2, fast=2.5)
    found = compare(before, after)
    assert {c.label: c.verdict for c in found.changes} == {
        "base": SAME,
        "slow": SLOWER,
        "fast": FASTER,
    }
    slow = found.changes[1]
    assert slow.ratio == pytest.approx(1.1, abs=0.01)
    assert slow.low < slow.ratio < slow.high
    assert slow.before_ms == before["rows"][1]["latency_ms"]["p50"]
    assert slow.same_file is True
    assert found.slower == ["slow"]


def test_a_change_within_the_tolerance_is_noise_and_so_is_one_that_is_not_sure() -> None:
    before, after = run_of(0, net=2.0), run_of(10, net=2.1)
    assert verdicts(before, after) == {"net": SLOWER}
    assert verdicts(before, after, tolerance=0.1) == {"net": SAME}
    assert verdicts(after, before) == {"net": FASTER}
    assert verdicts(after, before, tolerance=0.1) == {"net": SAME}
    # the median rose by 5 %, but both runs waver by more
    unsure = [result_of({"net": samples_of(t, s, 15, 0.5)}) for t, s in ((2.0, 0), (2.1, 3))]
    assert verdicts(*unsure) == {"net": SAME}


def test_the_whole_interval_must_lie_beyond() -> None:
    generator = np.random.default_rng(0)
    first = [int(v) for v in generator.normal(1e6, 5e4, 300)]
    verdict, ratio, low, high = time_ratio([first], [[int(v * 1.1) for v in first]], 0.0)
    assert (verdict, ratio) == (SLOWER, pytest.approx(1.1, rel=1e-3))
    # the same run on both sides: the runs are drawn apart, so the interval is not a point
    verdict, ratio, low, high = time_ratio([first], [first], 0.0)
    assert (verdict, ratio) == (SAME, 1.0)
    assert low < 1 < high
    assert time_ratio([first], [[int(v * 1.1) for v in first]], 0.099)[0] == SAME


def test_what_holds_the_same_spell_is_drawn_together() -> None:
    """Half of each run is slow for base and file alike: their ratio is still sure."""
    spells = [1, 1, 1, 1, 2, 2, 2, 2] * 30
    base = [1_000_000 * s for s in spells]
    file = [500_000 * s for s in spells]
    _, _, low, high = time_ratio([file], [file], 0.0)
    assert high / low > 1.5
    _, ratio, low, high = time_ratio([file, base], [file, base], 0.0)
    assert (low, ratio, high) == (1.0, 1.0, 1.0)


def test_files_that_only_one_result_has() -> None:
    found = compare(run_of(0, net=2.0, gone=1.0), run_of(5, net=2.0, added=1.0))
    assert {c.label: c.verdict for c in found.changes} == {
        "net": SAME,
        "gone": "only before",
        "added": "only after",
    }
    assert "gone" in render_comparison(found)
    with pytest.raises(BenchError, match="No file is in both"):
        compare(run_of(0, one=1.0), run_of(0, two=1.0))


def test_all_files_moved_alike_so_the_machine_did() -> None:
    before = run_of(0, base=4.0, net=2.0, other=3.0)
    after = run_of(10, base=4.8, net=2.4, other=4.2)
    found = compare(before, after)
    assert found.slower == ["base", "net", "other"]
    [note] = found.notes
    assert "it may be the machine that moved" in note
    assert "'other' is slower" in note
    assert "'net'" not in note
    held = compare(before, after, relative=True)
    assert {c.label: c.verdict for c in held.changes} == {
        "base": BASE,
        "net": SAME,
        "other": SLOWER,
    }
    assert held.notes == []
    assert "time / first file" in render_comparison(held)
    alone = compare(before, run_of(10, base=4.0, net=2.4, other=3.0))
    assert alone.notes == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r["machine"].update(cpu="Another"), "cpu: A CPU -> Another"),
        (lambda r: r["machine"].update(logical_cores=2), "logical cores: 8 -> 2"),
        (lambda r: r["device"].update(name="cuda"), "device: cpu -> cuda"),
        (lambda r: r["rows"][0].update(device="A GPU"), "runs on: CPU -> A GPU"),
    ],
)
def test_another_machine_is_refused_unless_asked_for(
    edit: Callable[[Any], Any], message: str
) -> None:
    before, after = run_of(0, net=2.0), run_of(5, net=2.0)
    edit(after)
    with pytest.raises(BenchError, match=f"{message}.*--any-machine"):
        compare(before, after)
    found = compare(before, after, any_machine=True)
    assert message in found.differences


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r["settings"].update(threads=4), "threads: 1 -> 4"),
        (lambda r: r["machine"].update(governor="powersave"), "governor: not known -> powersave"),
        (
            lambda r: r["device"]["facts"].update(power_mode={"id": 2, "name": "15W"}),
            "power mode: not known -> id 2, name 15W",
        ),
        (lambda r: r["rows"][0].update(runtime="B 2"), "'net' runtime: ONNX Runtime 1.20.0 -> B 2"),
        (
            lambda r: r["rows"][0].update(input=[1, 3, 8, 8]),
            "'net' input: [1, 3, 64, 64] -> [1, 3, 8, 8]",
        ),
    ],
)
def test_other_differences_are_said(edit: Callable[[Any], Any], message: str) -> None:
    before, after = run_of(0, net=2.0), run_of(5, net=2.0)
    edit(after)
    [difference] = compare(before, after).differences
    assert difference == message
    assert f"Differs: {difference}" in render_comparison(compare(before, after))


def test_incomplete_and_doubted_runs_are_said() -> None:
    before, after = run_of(0, net=2.0), run_of(5, net=2.0)
    before["complete"] = False
    after["warnings"] = ["the clocks are not locked."]
    notes = compare(before, after).notes
    assert "the result before was stopped before its time" in notes[0]
    assert "the run after has warnings of its own: the clocks are not locked." in notes[1]
    with pytest.raises(BenchError, match="below 0"):
        compare(before, after, tolerance=-0.1)


def test_a_base_must_be_another_file_and_the_same_in_both() -> None:
    with pytest.raises(BenchError, match=r"Only 'net' is in both results.*it takes two"):
        compare(run_of(0, net=2.0, gone=1.0), run_of(5, net=2.0), relative=True)
    before, after = run_of(0, base=4.0, net=2.0), run_of(5, base=4.0, net=2.0)
    after["rows"][0]["sha256"] = "of another file"
    [note] = compare(before, after, relative=True).notes
    assert "'base', which times are held against, is not the same file" in note


@pytest.mark.parametrize("relative", [False, True])
def test_few_samples_say_nothing(relative: bool) -> None:
    before = run_of(0, base=4.0, net=2.0)
    after = result_of({"base": samples_of(4.0, count=5), "net": samples_of(4.0, count=5)})
    found = compare(before, after, relative=relative)
    change = found.changes[1]
    assert (change.verdict, change.low, change.high) == (TOO_FEW, None, None)
    assert found.slower == []
    [note] = found.notes
    assert "the result after has 5 samples a file" in note


def test_a_jetson_is_its_module_and_not_its_cores() -> None:
    before, after = run_of(0, net=2.0), run_of(5, net=2.0)
    for result in (before, after):
        result["device"]["facts"]["module"] = "Jetson Orin NX 16GB"
    after["machine"]["logical_cores"] = 4  # another power mode
    assert compare(before, after).differences == ["logical cores: 8 -> 4"]
    after["device"]["facts"]["module"] = "Jetson Orin NX 8GB"
    with pytest.raises(BenchError, match="module: Jetson Orin NX 16GB -> Jetson Orin NX 8GB"):
        compare(before, after)


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., list[str]]:
    def write(**times: float) -> list[str]:
        paths = [tmp_path / "before.json", tmp_path / "after.json"]
        write_result(paths[0], run_of(0, base=4.0, net=2.0))
        write_result(paths[1], run_of(10, **times))
        return [str(path) for path in paths]

    return write


def test_the_command_fails_where_a_file_became_slower(files: Callable[..., list[str]]) -> None:
    call = CliRunner().invoke
    same = call(app, ["bench", "compare", *files(base=4.0, net=2.0)])
    assert same.exit_code == 0, same.output
    slower = call(app, ["bench", "compare", *files(base=4.0, net=2.4)])
    assert slower.exit_code == 3
    assert "Slower beyond noise: net" in slower.output
    lenient = call(app, ["bench", "compare", *files(base=4.0, net=2.4), "--tolerance", "0.5"])
    assert lenient.exit_code == 0
    held = call(app, ["bench", "compare", *files(base=4.8, net=2.4), "--relative"])
    assert held.exit_code == 0


def test_the_command_prints_one_json_document(files: Callable[..., list[str]]) -> None:
    done = CliRunner().invoke(app, ["bench", "compare", *files(base=4.0, net=2.4), "--json"])
    assert done.exit_code == 3
    document = json.loads(done.stdout)
    assert document["slower"] == ["net"]
    assert document["changes"][1]["ratio"] == pytest.approx(1.2, abs=0.02)


def test_the_command_names_a_damaged_file(files: Callable[..., list[str]]) -> None:
    before, after = files(base=4.0)
    Path(after).write_text("{")
    done = CliRunner().invoke(app, ["bench", "compare", before, after])
    assert done.exit_code == 2
    assert "after.json' is damaged" in done.output
    assert "Traceback" not in done.output
