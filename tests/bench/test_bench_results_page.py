"""Tables and pages show what there is, and nothing of a file's content becomes code."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_results import result_of, samples_of
from typer.testing import CliRunner

import bench.results.page
from bench.results import plots
from bench.results.drawing import draw
from bench.results.files import write_result
from bench.results.labels import label_points
from bench.results.page import result_page
from bench.results.pareto import front_of
from bench.results.schema import BenchResult
from bench.results.text import render
from compress.cli import app

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def result() -> BenchResult:
    return result_of({"base": samples_of(4.0), "small": samples_of(2.0, 1)})


def measure_everything(result: BenchResult) -> None:
    row = result["rows"][1]
    latency = row["latency_ms"]
    row["parts_ms"] = {
        part: {**latency, "p50": p50}
        for part, p50 in (("host_to_device", 0.25), ("compute", 1.5), ("device_to_host", 0.125))
    }
    row["end_to_end"] = {
        "latency_ms": {**latency, "p50": 7.125},
        "steps_ms": {"letterbox": 1.0, "inference": 2.0, "nms": 3.0},
        "images": 12,
        "boxes": 4.5,
    }
    row["throughput"] = {
        "batch": 1,
        "streams": 4,
        "threads": 1,
        "images_per_second": 1234.5,
        "images": 99,
        "seconds": 3.0,
    }
    row["energy"] = {
        "joules_per_image": 0.0421,
        "watts": 9.0,
        "idle_watts": 4.0,
        "scope": "VDD_IN: the whole module",
        "images": 99,
        "seconds": 5.0,
    }
    row["notes"] = ["2 operators ran on the CPU"]
    for each, score in zip(result["rows"], (0.61, 0.6), strict=True):
        each["map"] = {"val": {"map50": 0.8, "map50_95": score}}
    result["device"]["trace"] = [
        {"seconds": 0.5 * look, "gpu_mhz": 900.0 - look, "soc_c": 50.0 + look, "VDD_IN_w": 9.0}
        for look in range(5)
    ]


def test_plain_runs_have_no_further_columns(result: BenchResult) -> None:
    head = render(result).splitlines()[0]
    for title in ("compute", "boxes", "most", "J/image", "mAP", "runtime"):
        assert title not in head


def test_what_was_measured_has_its_column(result: BenchResult) -> None:
    measure_everything(result)
    result["host"], result["complete"] = "user@board", False
    text = render(result)
    base, small = text.splitlines()[2:4]
    assert "0.25 + 1.50 + 0.12" in small
    for cell in ("7.125", "1234.5", "0.0421", "0.6000"):
        assert cell in small
        assert cell not in base
    assert "mAP50-95 val" in text.splitlines()[0]
    for note in (
        "Incomplete: it was stopped before its time.",
        "user@board: A CPU",
        "inference alone (what the file computes);",
        "Image to boxes: 12 images, all files in turn.",
        "small: letterbox 1.00 + inference 2.00 + nms 3.00 ms, 4.5 boxes an image.",
        "Most images/s: 4 copies",
        "J/image: VDD_IN: the whole module, idle power included.",
        "Note: small: 2 operators ran on the CPU",
    ):
        assert note in text


def test_a_line_break_in_a_label_breaks_no_table(result: BenchResult) -> None:
    result["rows"][1]["label"] = "two\nlines | and a bar"
    rows = [line for line in render(result, markdown=True).splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert "two lines \\| and a bar" in rows[3]


class Page(HTMLParser):
    """Tags and what is loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "xlink:href")
        self.sources += [value or "" for name, value in attrs if name in names]


def test_the_page_holds_everything_and_loads_nothing(result: BenchResult) -> None:
    measure_everything(result)
    text = result_page(result)
    page = Page(text)
    assert page.tags.count("svg") == 4
    assert "script" not in page.tags
    assert all(source.startswith("#") for source in page.sources)
    assert not re.search(r"@import|url\((?!#)", text)
    for shown in (
        "base",
        "small",
        "0.0421",
        "A CPU",
        "other cores",
        "mAP50-95 (val)",
        "clock, MHz",
    ):
        assert shown in text
    assert all(row["sha256"] in text for row in result["rows"])
    assert "prefers-color-scheme: dark" in text
    # colours of plots are those of the page, dark or light
    assert "var(--series-1)" in text
    assert "#0505" not in text


def test_a_machine_that_is_not_known_is_shown_as_such(result: BenchResult) -> None:
    result["machine"], result["settings"] = {}, {}
    text = result_page(result)
    assert "2026-03-01T10:00:00+00:00, unknown</span>" in text
    assert "unknown, unknown of unknown cores" in text
    assert "None" not in render(result)


def test_nothing_of_the_file_becomes_code(result: BenchResult) -> None:
    measure_everything(result)
    for row in result["rows"]:
        row.update({key: EVIL for key in ("file", "runtime", "sha256", "source_sha256")})
    row = result["rows"][1]
    result["samples_ns"][EVIL] = result["samples_ns"].pop(row["label"])
    row["label"] = EVIL
    row["map"] = result["rows"][0]["map"] = {EVIL: {"map50_95": 0.5}}
    row["notes"] = result["warnings"] = [EVIL]
    row["energy"]["scope"] = EVIL
    result["host"] = result["created"] = EVIL
    result["machine"][EVIL] = result["settings"][EVIL] = result["device"]["facts"][EVIL] = EVIL
    result["machine"]["cpu"] = EVIL
    result["device"]["trace"] = [{"seconds": 0.0, f"{EVIL}_mhz": 1.0, "b_mhz": 2.0}]
    text = result_page(result)
    assert "script" not in Page(text).tags
    assert EVIL not in text
    assert "&lt;script&gt;" in text


def test_odd_labels_can_be_drawn() -> None:
    labels = ["base", "_hidden", "$x_{", "", " ", "a" * 300, "\x00\x1b[31m", "名前"]
    odd = result_of({name: samples_of(4.0, n, count=70) for n, name in enumerate(labels)})
    for row in odd["rows"]:
        row["map"] = {"val": {"map50_95": 0.5}}
    text = result_page(odd)
    assert Page(text).tags.count("svg") == 3
    strips = plots.distribution(odd)
    assert all(label in strips for label in ("_hidden", "$x_{", "名前"))


def test_extreme_samples_can_be_drawn() -> None:
    same = result_of({"one": [1_000_000] * 11})
    assert "svg" in Page(result_page(same)).tags
    wide = result_of({"wide": [1_000] * 60 + [10_000_000_000] * 4})
    assert "(logarithmic)" in plots.distribution(wide)
    assert "(logarithmic)" not in plots.distribution(same)


def test_a_trace_with_holes_shows_what_there_is() -> None:
    odd = result_of({"net": samples_of(1.0)})
    assert plots.trace(odd) == ""
    odd["device"]["trace"] = [{"gpu_mhz": 1.0}, {"seconds": None, "gpu_mhz": 1.0}]
    assert plots.trace(odd) == ""
    odd["device"]["trace"] = [
        {"seconds": 0.0, "gpu_mhz": None, "soc_c": 40.0},
        {"seconds": 1.0, "gpu_mhz": 900, "locked": True, "name": "text"},
    ]
    drawn = plots.trace(odd)
    assert "clock, MHz: gpu" in drawn
    assert "temperature, °C: soc" in drawn
    assert "locked" not in drawn


def test_the_front_is_what_nothing_beats() -> None:
    places = {
        "slow and good": (9.0, 0.7),
        "fast and poor": (1.0, 0.3),
        "middle": (4.0, 0.6),
        "beaten in both": (5.0, 0.5),
        "as good but slower": (9.5, 0.7),
        "as fast but worse": (1.0, 0.2),
        "its twin": (4.0, 0.6),
    }
    assert front_of(places) == ["fast and poor", "middle", "its twin", "slow and good"]
    assert front_of({}) == []


def test_map_is_drawn_from_two_files_on(result: BenchResult) -> None:
    assert plots.accuracy_over_latency(result) == ""
    result["rows"][0]["map"] = {"val": {"map50_95": 0.5}}
    assert plots.accuracy_over_latency(result) == ""
    result["rows"][1]["map"] = {"val": {"map50_95": 0.4}, "test": {"map50_95": 0.3}}
    assert "mAP50-95 (val)" in plots.accuracy_over_latency(result)


def test_names_of_points_cover_nothing() -> None:
    crowd = {f"some file {n}": (1 + 0.004 * (n % 4), 0.6 + 0.0005 * (n // 4)) for n in range(12)}
    places = {**crowd, "corner": (3.0, 0.9), "far": (2.0, 0.2)}
    with draw(9.6, 3.4) as (_, axes):
        for place in places.values():
            axes.plot(*place, "o", markersize=8)
        axes.set_title("a title")
        left_out = label_points(axes, places, [(1.0, 0.6), (3.0, 0.9)])
        written = {text.get_text(): text for text in axes.texts if text.get_text()}
        assert set(written) | set(left_out) == set(places)
        assert {"corner", "far"} <= set(written)
        areas = [text.get_window_extent() for text in written.values()]
        inside = axes.get_window_extent()
        title = axes.title.get_window_extent()
        dots = [axes.transData.transform(place) for place in places.values()]
    for number, area in enumerate(areas):
        assert inside.x0 <= area.x0 and area.x1 <= inside.x1  # noqa: PT018
        assert not area.overlaps(title)
        assert not any(area.overlaps(other) for other in areas[number + 1 :])
        assert not any(area.contains(*dot) for dot in dots)


def test_without_matplotlib_the_page_says_so(
    result: BenchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.results.page, "find_spec", lambda name: None)
    text = result_page(result)
    assert "svg" not in Page(text).tags
    assert "matplotlib is not installed" in text
    assert "small" in text


def test_the_report_command(result: BenchResult, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_result(file, result)
    call = CliRunner().invoke
    shown = call(app, ["bench", "report", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "small" in shown.stdout
    page, table = tmp_path / "pages" / "page.html", tmp_path / "table.md"
    done = call(app, ["bench", "report", str(file), "--html", str(page), "--md", str(table)])
    assert done.exit_code == 0, done.output
    assert "</html>" in page.read_text()
    assert table.read_text().startswith("| file")
    wrong = call(app, ["bench", "report", str(file), "--html", str(file / "below")])
    assert wrong.exit_code == 2
    assert "cannot be written" in wrong.output
