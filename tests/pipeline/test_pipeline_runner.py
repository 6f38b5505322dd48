from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from pipeline_fakes import NAMES, Desk, Hook, recipe

from bench.errors import BenchAlignmentError
from compress.errors import CompressError, GateError
from compress.pipeline.contract import Context
from compress.pipeline.files import sha256_of
from compress.pipeline.job import Place
from compress.pipeline.plan import Selection
from compress.pipeline.preflight import check_before_work
from compress.recipe.schema import Recipe


def record(desk: Desk) -> dict[str, Any]:
    return dict(json.loads((desk.place.run / "run.json").read_text()))


def failing(stage: str, error: BaseException, moment: str = "begin") -> Hook:
    def hook(name: str, now: str, context: Context) -> None:
        if (name, now) == (stage, moment):
            raise error

    return hook


def test_everything_is_published_and_recorded(desk: Desk) -> None:
    outcome = desk.run()
    run = record(desk)
    assert outcome.ran == tuple(NAMES)
    assert run == outcome.record
    assert run["status"] == "done"
    assert [stage["name"] for stage in run["stages"]] == NAMES
    for stage in run["stages"]:
        for file in stage["files"].values():
            published = desk.place.run / file["path"]
            assert sha256_of(published) == file["sha256"]
            assert published.stat().st_size == file["bytes"]


def test_lineage_leads_from_every_file_back_to_the_weights(desk: Desk) -> None:
    desk.run()
    known = {sha256_of(desk.folder / name) for name in ("n.pt", "s.pt")}
    for stage in record(desk)["stages"]:
        assert {item["sha256"] for item in stage["inputs"].values()} <= known
        known |= {file["sha256"] for file in stage["files"].values()}
    inputs = record(desk)["stages"][3]["inputs"]
    assert inputs["teacher.0"]["from"] == "teacher/checkpoint"
    assert inputs["checkpoint"]["from"] == "prune/checkpoint"


def stamps(desk: Desk) -> dict[Path, int]:
    kept = [*desk.place.run.glob("[0-9]*/*"), *desk.place.run.glob("r*.*")]
    return {path: path.stat().st_mtime_ns for path in kept if path.name != "recipe.yaml"}


def test_second_run_is_cached_changes_nothing_and_is_quick(desk: Desk) -> None:
    desk.run()
    before = stamps(desk)
    started = time.monotonic()
    assert desk.run().ran == ()
    assert time.monotonic() - started < 1
    assert stamps(desk) == before
    assert desk.place.run / "run.json" in before
    assert len(desk.reports) == 1


def test_only_what_changed_runs_again(desk: Desk) -> None:
    desk.run()
    changed = recipe({"qat": {"train": {"epochs": 11}}})
    assert desk.run(changed).ran == ("qat", "export", "bench")
    assert [stage["cached"] for stage in record(desk)["stages"]] == [True] * 4 + [False] * 3
    assert len(desk.reports) == 2


def test_force_runs_again_and_the_same_result_leaves_the_rest_cached(desk: Desk) -> None:
    desk.run()
    assert desk.run(selection=Selection(force=("bench", "base"))).ran == ("base", "bench")


def test_until_then_the_rest(desk: Desk) -> None:
    assert desk.run(selection=Selection(until="prune")).ran == ("base", "teacher", "prune")
    assert desk.run(selection=Selection(start="finetune")).ran == tuple(NAMES[3:])


def test_from_needs_what_is_before_and_leaves_the_last_record(desk: Desk) -> None:
    desk.run()
    before = record(desk)
    changed = recipe({"prune": {"target": {"macs": 0.5}}})
    with pytest.raises(CompressError, match=r"'prune' before it is not cached .target.macs 0.4"):
        desk.run(changed, Selection(start="qat"))
    assert record(desk) == before


def test_a_stage_that_fails_keeps_those_before_it(desk: Desk) -> None:
    with pytest.raises(CompressError, match="no such layer"):
        desk.run(hook=failing("qat", CompressError("no such layer"), "between"))
    run = record(desk)
    assert run["status"] == "failed"
    assert run["error"] == "no such layer"
    assert [stage["name"] for stage in run["stages"]] == NAMES[:4]
    assert desk.run().ran == tuple(NAMES[4:])


def test_a_stage_that_fails_leaves_a_report_of_those_before_it(desk: Desk) -> None:
    with pytest.raises(CompressError):
        desk.run(hook=failing("qat", CompressError("no such layer")))
    assert desk.reports == [desk.place.run]
    assert (desk.place.run / "recipe.yaml").is_file()


def test_a_report_that_fails_too_does_not_hide_why_the_run_ended(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Desk, folder: Path) -> NoReturn:
        raise ModuleNotFoundError("matplotlib")

    monkeypatch.setattr(Desk, "report", broken)
    with pytest.raises(CompressError, match="no such layer"):
        desk.run(hook=failing("qat", CompressError("no such layer")))
    assert record(desk)["status"] == "failed"


def test_a_bench_that_refuses_ragged_channels_is_a_missed_gate(desk: Desk) -> None:
    with pytest.raises(BenchAlignmentError):
        desk.run(hook=failing("bench", BenchAlignmentError("conv1 has 7 channels", {})))
    assert record(desk)["status"] == "gate"
    assert record(desk)["error"] == "conv1 has 7 channels"
    assert desk.reports == [desk.place.run]


def test_stopped_by_the_user(desk: Desk) -> None:
    with pytest.raises(KeyboardInterrupt):
        desk.run(hook=failing("finetune", KeyboardInterrupt()))
    assert record(desk)["status"] == "stopped"
    assert desk.run().ran == tuple(NAMES[3:])


def _torch_like_full_disk() -> RuntimeError:
    error = RuntimeError("PytorchStreamWriter failed writing file")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return error


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "quota"), _torch_like_full_disk()],
)
def test_full_disk_is_one_message_and_loses_nothing(desk: Desk, error: Exception) -> None:
    with pytest.raises(
        CompressError, match=r"no space left .* free some\. Every finished"
    ) as fault:
        desk.run(hook=failing("prune", error, "end"))
    assert str(desk.place.cache) in str(fault.value)
    assert not list((desk.place.cache / "stages").glob(".new-*"))
    assert desk.run().ran == tuple(NAMES[2:])


def test_full_disk_that_torch_hides_is_seen_by_the_space_left(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(desk.folder)._replace(free=0)
    monkeypatch.setattr("compress.pipeline.files.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(CompressError, match="no space left"):
        desk.run(hook=failing("prune", RuntimeError("file write failed")))


def test_full_disk_while_the_record_is_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("compress.pipeline.record.write_json", full)
        with pytest.raises(CompressError, match="no space left"):
            desk.run()
    assert "base" not in desk.run().ran


def test_missing_permission_inside_a_stage_names_the_file(desk: Desk) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "/x/labels.cache")
    with pytest.raises(CompressError, match=r"'/x/labels\.cache': Permission denied"):
        desk.run(hook=failing("train", denied))


@pytest.mark.parametrize("option", ["--out", "--cache"])
def test_folder_that_cannot_be_written_is_told_before_any_work(desk: Desk, option: str) -> None:
    (desk.folder / "file").write_text("")
    blocked = desk.folder / "file" / "inside"
    open_place = desk.place
    place = Place(
        blocked if option == "--out" else open_place.run,
        blocked if option == "--cache" else open_place.cache,
    )
    with pytest.raises(CompressError, match=f"cannot write in '{blocked}'.*{option}"):
        desk.run(place=place)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_read_only_folder(desk: Desk) -> None:
    desk.place.run.mkdir(parents=True)
    desk.place.run.chmod(0o500)
    with pytest.raises(CompressError, match="Permission denied"):
        desk.run()


def test_unknown_error_goes_through_as_it_is(desk: Desk) -> None:
    with pytest.raises(ZeroDivisionError):
        desk.run(hook=failing("prune", ZeroDivisionError()))


MISSED = {"finetune": {"accept": {"map50_95": {"max_drop": 0.005}}}}


def test_missed_gate_keeps_the_result_reports_and_stops(desk: Desk) -> None:
    with pytest.raises(GateError, match=r"'finetune' misses .* missed by 0\.0050") as missed:
        desk.run(recipe(MISSED))
    assert "04-finetune" in str(missed.value)
    assert (desk.place.run / "04-finetune" / "model.pt").is_file()
    run = record(desk)
    assert run["status"] == "gate"
    assert run["stages"][-1]["name"] == "finetune"
    (gate,) = run["stages"][-1]["gates"]
    assert gate.items() >= {"metric": "map50_95", "against": "base", "passed": False}.items()
    assert len(desk.reports) == 1


def test_gates_hold_for_cached_results_and_loosening_them_costs_nothing(desk: Desk) -> None:
    desk.run()
    with pytest.raises(GateError):
        desk.run(recipe(MISSED))
    loose = recipe({"finetune": {"accept": {"map50_95": {"max_drop": 0.02}}}})
    assert desk.run(loose).ran == ()
    assert record(desk)["stages"][3]["gates"][0]["passed"]


def test_damaged_cache_entry_runs_again_with_a_warning(desk: Desk) -> None:
    desk.run()
    before = desk.hashes()
    (desk.place.run / "03-prune" / "model.pt").write_text("edited in place")
    assert desk.run().ran == ("prune",)
    assert any("warning" in line and "damaged" in line for line in desk.lines.said)
    assert desk.hashes() == before


def test_removed_published_file_comes_back_from_the_cache(desk: Desk) -> None:
    desk.run()
    before = desk.hashes()
    shutil.rmtree(desk.place.run / "05-qat")
    assert desk.run().ran == ()
    assert desk.hashes() == before


def test_copies_where_no_hard_link_can_be(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr("compress.pipeline.files.os.link", refuse)
    desk.run()
    assert desk.run().ran == ()
    model = desk.place.run / "01-base" / "model.pt"
    model.write_text("edited")
    assert desk.run().ran == ()
    assert sha256_of(model) == record(desk)["stages"][0]["files"]["checkpoint"]["sha256"]


def test_stage_folders_follow_the_recipe_and_own_files_stay(desk: Desk) -> None:
    desk.run()
    (desk.place.run / "04-finetune" / "notes.txt").write_text("mine")
    desk.run(recipe(only=["base", "prune", "export", "bench"]))
    folders = sorted(path.name for path in desk.place.run.glob("[0-9]*"))
    assert folders == ["01-base", "02-prune", "03-export", "04-bench", "04-finetune"]
    assert [path.name for path in (desk.place.run / "04-finetune").iterdir()] == ["notes.txt"]
    assert not (desk.place.run / "03-export" / "qat.onnx").exists()


def test_resolved_recipe_can_be_run_again(desk: Desk) -> None:
    desk.run()
    values = yaml.safe_load((desk.place.run / "recipe.yaml").read_text())
    again = Recipe.model_validate(values)
    assert again.model == str(desk.folder / "n.pt")
    assert again.stages == recipe().stages


def test_resolved_recipe_names_the_files_of_teachers_that_help_recover(desk: Desk) -> None:
    distill = {"teachers": ["s.pt"], "losses": [{"kind": "cwd"}]}
    recover = {"train": {"epochs": 1}, "distill": distill}
    desk.run(recipe({"prune": {"steps": 2, "recover": recover}}, only=["base", "prune"]))
    prune = yaml.safe_load((desk.place.run / "recipe.yaml").read_text())["stages"][1]
    (teacher,) = prune["recover"]["distill"]["teachers"]
    assert teacher["model"] == str(desk.folder / "s.pt")


def test_a_gate_of_time_that_is_missed_keeps_the_result(desk: Desk) -> None:
    slow = {"speedup_ci": [0.8, 0.9], "blame": [{"layer": "model.2", "parent_ms": 1, "ms": 2}]}
    with pytest.raises(GateError, match=r"never_slower is 0\.9000.*model\.2 \(1 -> 2 ms\)"):
        desk.run(timing=slow)
    assert (desk.place.run / "03-prune" / "model.pt").is_file()
    assert record(desk)["status"] == "gate"


def test_stages_share_a_folder_that_outlives_runs(desk: Desk) -> None:
    def measure(stage: str, now: str, context: Context) -> None:
        if now == "begin":
            with (context.shared / "times").open("a") as file:
                file.write(stage + "\n")

    desk.run(recipe(only=["base"]), hook=measure)
    desk.run(recipe(only=["base", "prune"]), hook=measure)
    assert (desk.place.cache / "shared" / "times").read_text() == "train\nprune\n"


def test_stages_read_published_files_so_that_another_run_cannot_swap_them(desk: Desk) -> None:
    """The cache entry of base vanishes while prune works; nothing is lost."""

    def vanish(stage: str, now: str, context: Context) -> None:
        if (stage, now) == ("prune", "begin"):
            for entry in (desk.place.cache / "stages").glob("train-*"):
                shutil.rmtree(entry)

    assert desk.run(hook=vanish).ran == tuple(NAMES)
    assert record(desk)["status"] == "done"


def test_report_that_is_gone_is_written_again(desk: Desk) -> None:
    desk.run()
    (desk.place.run / "report.html").unlink()
    assert desk.run().ran == ()
    assert len(desk.reports) == 2


def test_labels_are_checked_before_the_first_stage_that_runs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.run()

    def broken(data: object) -> NoReturn:
        raise CompressError("x.txt:1: class 7")

    monkeypatch.setattr("compress.pipeline.preflight.check_labels", broken)
    monkeypatch.setattr(Desk, "check", lambda desk, *given: check_before_work(*given))
    assert desk.run().ran == ()
    with pytest.raises(CompressError, match="class 7"):
        desk.run(recipe(seed=1))


def test_place_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Place.of("v8n") == Place(tmp_path / "runs/v8n", tmp_path / "runs/.cache")
    assert Place.of("v8n", Path("a/b")).cache == tmp_path / "a/.cache"
    assert Place.of("v8n", cache=Path("c")).cache == tmp_path / "c"
