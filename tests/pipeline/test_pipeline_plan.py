from __future__ import annotations

import shutil
from typing import Any

import pytest
from pipeline_fakes import NAMES, Desk, recipe

from compress.errors import CompressError
from compress.pipeline.plan import PlannedStep, Selection


def states(planned: dict[str, PlannedStep]) -> dict[str, str]:
    return {name: step.state for name, step in planned.items()}


def test_nothing_run_yet(desk: Desk) -> None:
    planned = desk.plan()
    assert list(planned) == NAMES
    assert {step.reason for step in planned.values()} == {"never run"}
    assert set(states(planned).values()) == {"miss"}


def test_all_run(desk: Desk) -> None:
    desk.run()
    assert set(states(desk.plan()).values()) == {"hit"}


def test_changed_setting_is_named_and_what_follows_will_change(desk: Desk) -> None:
    desk.run()
    planned = desk.plan(recipe({"finetune": {"train": {"epochs": 80}}}))
    assert [planned[name].state for name in NAMES[:3]] == ["hit"] * 3
    assert planned["finetune"].reason == "train.epochs 60 -> 80"
    assert planned["qat"].reason == "its input from 'finetune' will change"
    assert planned["bench"].reason == "its input from 'export' will change"
    assert {planned[name].state for name in NAMES[3:]} == {"miss"}


def test_plan_tells_what_the_run_then_does(desk: Desk) -> None:
    desk.run()
    other = recipe({"prune": {"target": {"macs": 0.5}}})
    planned = states(desk.plan(other))
    ran = desk.run(other).ran
    assert list(ran) == [name for name, state in planned.items() if state == "miss"]


def test_going_back_to_an_earlier_setting_hits(desk: Desk) -> None:
    desk.run()
    desk.run(recipe({"prune": {"target": {"macs": 0.5}}}))
    assert set(states(desk.plan()).values()) == {"hit"}


def test_own_change_is_named_even_behind_another(desk: Desk) -> None:
    desk.run()
    changes = {"prune": {"target": {"macs": 0.5}}, "qat": {"train": {"epochs": 11}}}
    assert desk.plan(recipe(changes))["qat"].reason == "train.epochs 10 -> 11"


def test_many_changes_are_counted(desk: Desk) -> None:
    desk.run()
    train: dict[str, Any] = {"epochs": 1, "batch": 2, "lr0": 0.5, "mosaic": 0.0, "mixup": 0.1}
    reason = desk.plan(recipe({"base": {"train": train}}))["base"].reason
    assert reason.count("->") == 3
    assert reason.endswith("and 2 more")


def test_forced_and_what_depends_on_it(desk: Desk) -> None:
    desk.run()
    planned = desk.plan(selection=Selection(force=("prune",)))
    assert (planned["prune"].state, planned["prune"].reason) == ("miss", "forced")
    assert planned["finetune"].state == "unknown"
    assert planned["finetune"].reason == "not known until 'prune' has run"
    assert planned["teacher"].state == "hit"


def test_removed_and_damaged_results_are_told_apart(desk: Desk) -> None:
    desk.run()
    shutil.rmtree(desk.entry("prune"))
    assert desk.plan()["prune"].reason == "its result is no longer in the cache"
    (desk.entry("finetune") / "model.pt").write_text("x")
    desk.run(selection=Selection(until="prune"))
    assert "damaged" in desk.plan()["finetune"].reason


def test_plan_survives_a_run_that_stopped_early(desk: Desk) -> None:
    desk.run()
    desk.run(selection=Selection(until="base"))
    changed = recipe({"qat": {"train": {"epochs": 11}}})
    assert desk.plan(changed)["qat"].reason == "train.epochs 10 -> 11"


def test_another_recipe_shares_the_cache(desk: Desk) -> None:
    desk.run(recipe(only=["base", "prune"]))
    shutil.rmtree(desk.place.run)
    assert states(desk.plan())["prune"] == "hit"


def test_plan_writes_nothing(desk: Desk) -> None:
    desk.plan()
    assert not desk.place.run.exists()
    assert not desk.place.cache.exists()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(start="qta"), "--from qta: no such stage; there are base, teacher"),
        (Selection(until="x"), "--until x: no such stage"),
        (Selection(force=("prune", "y")), "--force y: no such stage"),
        (Selection(start="qat", until="prune"), "comes after --until prune"),
        (Selection(start="qat"), "'base' before it is not cached .never run."),
    ],
)
def test_bad_selection(desk: Desk, selection: Selection, message: str) -> None:
    with pytest.raises(CompressError, match=message):
        desk.plan(selection=selection)
    with pytest.raises(CompressError, match=message):
        desk.run(selection=selection)
