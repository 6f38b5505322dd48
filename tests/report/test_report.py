"""The two report files: complete, self-contained, safe, and the same for the same run."""

from __future__ import annotations

import base64
import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_run import JPEG, fake_run, searched_run, stopped_after, write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.errors import CompressError
from compress.report import document, write_report

pytest.importorskip("matplotlib")

VOID = {"meta", "img", "br", "path", "use", "line", "rect"}
TIMES = "\N{MULTIPLICATION SIGN}"
EVIL = "<script>alert(1)</script> | `x` *y* $z$"


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Both reports of a run that is done."""
    return report(tmp_path_factory.mktemp("run"), fake_run())


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds; where plots are not the point, do as if matplotlib were missing."""
    monkeypatch.setattr(document, "find_spec", lambda name: None)


def report(folder: Path, run: dict[str, Any]) -> tuple[str, str]:
    markdown, html = write_report(write_run(folder, run))
    return markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")


def markdown_tables(text: str) -> list[list[int]]:
    """The number of cells of each row, table by table."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [[len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()] for block in blocks]


def test_the_whole_run_is_shown(whole: tuple[str, str]) -> None:
    run = fake_run()
    markdown, html = whole
    page = Page(html)
    for stage in run["stages"]:
        assert stage["name"] in markdown
        assert stage["name"] in page.text
        for file in stage["files"].values():
            for text in (markdown, page.text):
                assert file["path"] in text
                assert file["sha256"][:12] in text
    for text in (markdown, page.text):
        for part in ("3.01 M", "0.601", "9.23", "AMD EPYC 9654", "imgsz=320", "is virtual: other"):
            assert part in text
    # two overviews, four trainings, one pruning
    assert page.count("svg") == 7


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Both reports of a run that searched its target."""
    return report(tmp_path_factory.mktemp("searched"), searched_run())


def test_trials_are_told_with_target_gate_and_place(searched: tuple[str, str]) -> None:
    markdown, html = searched
    for text in (markdown, Page(html).text):
        for part in ("latency 0.4", "41.1 %", "0.5880", "0.6020", "missed", "latency 0.55"):
            assert part in text
        assert "finetune-0000000000000001" in text
        assert "/runs/.cache/stages those of all" in text
    (held,) = [line for line in markdown.splitlines() if "latency 0.55" in line]
    assert held.startswith("| **2** |")


def test_a_prune_stage_is_told_with_target_alignment_and_time(searched: tuple[str, str]) -> None:
    run = searched_run()
    layers = run["stages"][3]["metrics"]["channels"].values()
    pruned = sum(after < before for before, after in layers)
    for text in (searched[0], Page(searched[1]).text):
        for part in ("time", "55.0 %", "56.1 %", "43.7 %", "31.4", "17.6", f"1.74{TIMES} to 1.82"):
            assert part in text
        assert f"{pruned} of {len(layers)}; all a multiple of 8" in text


def test_sensitivity_and_steps_are_drawn_and_listed(searched: tuple[str, str]) -> None:
    markdown, html = searched
    drawn = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", html))
    rows = searched_run()["stages"][1]["metrics"]["sensitivity"]["rows"]
    listed = [line.split(" | ")[0].strip("| ") for line in markdown.splitlines()]
    worst = max(rows, key=lambda row: float(row["drop"]))
    assert listed[listed.index("Layer cut") + 2] == worst["layer"]
    for row in rows:
        assert row["layer"] in drawn
        assert f"| {row['layer']} | {row['map50_95']:.3f} |" in markdown
    assert "mAP50-95 (val) after each step" in drawn
    assert "| 2 | 67.1 % | 58.0 % | 0.557 |" in markdown
    assert Page(html).count("svg") == 9


def test_alignment_that_does_not_hold_is_told(tmp_path: Path, no_plots: None) -> None:
    run = searched_run()
    run["stages"][3]["metrics"]["channels"] = {"a": [64, 30], "b": [64, 32], "c": [16, 16]}
    assert "2 of 3; 1 of them a multiple of 8" in report(tmp_path, run)[0]


def test_each_loss_is_plotted_by_name_and_each_layer_with_its_channels(
    whole: tuple[str, str],
) -> None:
    run = fake_run()
    markdown, html = whole
    drawn = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", html))
    for loss in ("box_loss", "cls_loss", "dfl_loss", "cwd_loss", "mAP50-95"):
        assert loss in drawn
    for layer, (before, after) in run["stages"][2]["metrics"]["channels"].items():
        assert layer in drawn
        assert f"{before} \N{RIGHTWARDS ARROW} {after}" in drawn
        assert f"| {layer} | {before} | {after} |" in markdown


def test_the_page_needs_nothing_from_elsewhere(whole: tuple[str, str]) -> None:
    _, html = whole
    assert "http" not in html
    assert "@import" not in html
    sources = [attributes["src"] for _, attributes in Page(html).tags if "src" in attributes]
    assert [source.partition(",")[0] for source in sources if source] == ["data:image/jpeg;base64"]
    assert all(found.startswith("#") for found in re.findall(r'href="([^"]*)"', html))
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", html))


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, whole: tuple[str, str]) -> None:
    assert report(tmp_path / "elsewhere", fake_run()) == whole


def test_colours_follow_the_theme_of_the_page(whole: tuple[str, str]) -> None:
    _, html = whole
    figures = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert re.findall(r"(?:fill|stroke): (#(?!ffffff)\w+)", figures) == []
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used <= set(re.findall(r"(--[\w-]+):", html))


def test_texts_of_the_user_are_shown_and_never_run(tmp_path: Path) -> None:
    run = fake_run()
    run |= {"recipe": EVIL, "error": EVIL, "overrides": [EVIL], "machine": {"cpu": EVIL}}
    run["data"]["names"] = [EVIL]
    run["stages"][0] |= {"name": EVIL, "config": {"note": EVIL}}
    run["stages"][1]["metrics"]["curves"] = {f"train/{EVIL}": [1.0, 0.5]}
    run["stages"][2]["metrics"]["channels"] = {EVIL: [16, 8]}
    run["stages"][2]["metrics"]["sensitivity"] = {"rows": [{"layer": EVIL, "drop": 0.1}]}
    run["stages"][6]["metrics"]["bench"]["warnings"] = [EVIL]
    run["stages"][6]["metrics"]["bench"]["rows"][0]["graph"] = EVIL
    run["stages"][6]["metrics"]["bench"]["settings"] = {EVIL: EVIL}
    markdown, html = report(tmp_path, run)
    page = Page(html)
    assert page.count("script") == 0
    assert page.text.count(EVIL) >= 8
    assert not re.search(r"(?<!\\)<script", markdown)
    assert all(len(set(rows)) == 1 for rows in markdown_tables(markdown))


def test_markdown_tables_have_equal_rows(whole: tuple[str, str]) -> None:
    found = markdown_tables(whole[0])
    assert len(found) >= 8
    assert all(len(set(rows)) == 1 for rows in found)


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("last", [stage["name"] for stage in fake_run()["stages"]])
def test_a_run_that_stopped_anywhere_gets_a_report(tmp_path: Path, last: str) -> None:
    error = "no space left on the disk of '/runs': free some"
    run = stopped_after(fake_run(), last, error)
    markdown, html = report(tmp_path, run)
    names = [stage["name"] for stage in fake_run()["stages"]]
    page = Page(html)
    for text in (markdown, page.text):
        assert error in text
        assert "stopped by a fault" in text
        for name in names[names.index(last) + 1 :]:
            assert re.search(rf"Stages that did not run: .*\b{name}\b", text)


@pytest.mark.parametrize("run", [{}, {"stages": []}, {"status": "running", "finished": None}])
def test_a_run_without_a_stage_gets_a_report(tmp_path: Path, run: dict[str, Any]) -> None:
    markdown, html = report(tmp_path, {"stages": [], **run})
    assert "No stage has given a model yet." in markdown
    assert "No stage has given a model yet." in Page(html).text


OF_MODELS = ("params", "map50", "map50_95", "curves", "gates", "config", "inputs", "files")
OF_PRUNING = ("trials", "target", "timing", "kept_in", "drop", "macs_kept", "keep", "speedup_ci")
OF_FILES = ("sha256", "bytes", "rows", "result", "latency_ms", "map", "fps", "p50", "p99")
KEYS = (*OF_MODELS, *OF_PRUNING, *OF_FILES)


def drop(value: Any, key: str) -> None:
    """Take ``key`` away wherever it stands."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict):
        value.pop(key, None)
    for item in list(items):
        drop(item, key)


@pytest.mark.usefixtures("no_plots")
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(absent=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
def test_what_was_not_measured_leaves_a_gap_and_no_fault(tmp_path: Path, absent: list[str]) -> None:
    run = copy.deepcopy(searched_run())
    for key in absent:
        drop(run, key)
    (tmp_path / "run.json").write_text(json.dumps(run))
    markdown, html = write_report(tmp_path)
    Page(html.read_text(encoding="utf-8"))
    assert "## Lineage" in markdown.read_text(encoding="utf-8") or "files" in absent


def test_a_loss_that_was_no_number_leaves_a_gap(tmp_path: Path) -> None:
    run = fake_run()
    run["stages"][0]["metrics"]["curves"] = {"train/box_loss": [1.0, None, 0.5], "val/x": [None]}
    markdown, _ = report(tmp_path, run)
    assert "| base | train/box_loss | 3 | 1 | 0.5 | 1 | 0.5 |" in markdown


@pytest.mark.usefixtures("no_plots")
def test_only_pictures_of_the_run_are_embedded(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    run = fake_run()
    _, html = report(tmp_path / "run", run)
    assert base64.b64encode(JPEG).decode() in html
    run["stages"][6]["files"]["detections"]["path"] = "../secret.jpg"
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    markdown, page = write_report(tmp_path / "run")
    assert "secret" not in markdown.read_text().split("## Lineage")[0]
    assert "data:image" not in page.read_text()


@pytest.mark.usefixtures("no_plots")
def test_without_matplotlib_tables_stand_in(tmp_path: Path) -> None:
    _, html = report(tmp_path, fake_run())
    page = Page(html)
    assert page.count("svg") == 0
    assert "train/cwd_loss" in page.text
    assert "model.0.cv1" in page.text


@pytest.mark.parametrize("content", [None, "{", "[]", '"x"'])
def test_a_folder_without_a_record_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(CompressError, match=re.escape(str(tmp_path))) as caught:
        write_report(tmp_path)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "report.md").exists()
