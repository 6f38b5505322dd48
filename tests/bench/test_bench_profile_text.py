"""A profile's text: tables that sum up, what would have to shrink, and when to doubt it."""

from __future__ import annotations

from bench.profile.rows import changes_between, rows_of
from bench.profile.run import Profile, Profiles
from bench.profile.text import render_profiles
from bench.settings import Settings
from bench.work import NetWork, Work

NET = NetWork(
    tuple(
        Work(f"/{name}/Conv", name, "conv 3x3 s1", 16, macs, False, 1, 1, 1)
        for name, macs in {"a": 80_000_000, "b": 1_000_000, "c": 20_000_000}.items()
    ),
    {},
)
TIMES = {"/a/Conv": 4.0, "/b/Conv": 2.0, "/c/Conv": 1.0, "ReorderInput": 3.0}


def profiles(*latencies: float) -> Profiles:
    made = [
        Profile(
            file=f"{label}.onnx",
            label=label,
            runtime="ONNX Runtime 1",
            rows=rows_of({k: ms * factor for k, ms in TIMES.items()}, NET),
            sum_ms=10.0 * factor,
            latency_ms=latency,
            notes=["a note."],
        )
        for latency, (label, factor) in zip(latencies, {"x": 1.0, "y": 0.5}.items(), strict=False)
    ]
    changes = changes_between(*(each.rows for each in made)) if len(made) == 2 else []
    return Profiles(made, changes, Settings())


def cells(text: str, first: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.startswith(first))


def test_rows_that_are_not_shown_are_summed_up() -> None:
    text = render_profiles(profiles(9.5), top=2)
    assert cells(text, "a ") == [
        *("a", "conv", "3x3", "s1", "float", "4.000", "40.0%", "40.0%", "1", "16"),
        *("80.0", "20.0", "1.00"),
    ]
    assert cells(text, "2 more")[2:5] == ["3.000", "30.0%", "100.0%"]
    assert cells(text, "all")[1:4] == ["10.000", "100.0%", "100.0%"]
    assert "more" not in render_profiles(profiles(9.5), top=4)


def test_what_would_have_to_shrink_and_what_is_slow_for_its_work() -> None:
    text = render_profiles(profiles(9.5), top=2)
    assert "2 of 4 rows take 70% of the time: a, layout changes." in text
    assert "Slow for their MACs (under 25% of the speed of the best layer of their type): b" in text


def test_sum_and_undisturbed_latency_are_both_told() -> None:
    text = render_profiles(profiles(9.5), top=2)
    assert "Sum of all rows 10.000 ms; latency without the profiler 9.500 ms" in text
    assert "They differ by +0.500 ms" in text
    assert "Note: a note." in text
    assert "Warning" not in text
    assert "the machine was busy" in render_profiles(profiles(12.0), top=2)


def test_two_profiles_end_with_their_differences() -> None:
    text = render_profiles(profiles(9.5, 5.0), top=1)
    last = text.split("x against y")[1]
    assert cells(last, "a ") == ["a", "float", "4.000", "2.000", "-2.000"]
    assert cells(last, "3 more") == ["3", "more", "-3.000"]
    assert cells(last, "all") == ["all", "10.000", "5.000", "-5.000"]
    assert "0 of 4 rows became slower, by 0.000 ms together." in last
