"""Prune less and try again while a gate is missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_fakes import MAP, NAMES, Desk, Maps, recipe
from test_pipeline_crash import in_child, kill_at, leftovers

from compress.errors import GateError
from compress.pipeline.back_off import eased
from compress.pipeline.plan import Selection
from compress.recipe.schema import Recipe
from compress.recipe.sections import PruneTarget

NEEDED = 0.6  # share that must be kept for the finetune to hold its gate
SHORT = ["base", "prune", "finetune"]


def recovered(keep: float) -> float:
    """Just the gate's limit at ``NEEDED``: base has 0.60, a drop of 0.01 is accepted."""
    return 0.59 + (keep - NEEDED) / 10


MAPS: Maps = {**MAP, "finetune": recovered, "qat": recovered}


def backing_off(
    at: str = "finetune", only: list[str] = NAMES, target: Any = None, **back_off: Any
) -> Recipe:
    accept = {"map50_95": {"max_drop": 0.01}, "back_off": back_off}
    changes: dict[str, Any] = {at: {"accept": accept}}
    if target is not None:
        changes["prune"] = {"target": target}
    if only is SHORT:
        changes.setdefault("finetune", {})["distill"] = None
    return recipe(changes, only=only)


def record(desk: Desk) -> dict[str, Any]:
    return dict(json.loads((desk.place.run / "run.json").read_text()))


def trials(desk: Desk) -> list[tuple[Any, ...]]:
    found = record(desk)["trials"]
    return [(row["trial"], row["target"], row["achieved"], row["passed"]) for row in found]


SHARES = st.sampled_from(["macs", "params", "latency"])


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), SHARES)
def test_easing_gives_back_a_share_of_what_was_cut_in_the_unit_written(
    keep: float, by: float, unit: str
) -> None:
    for target in (PruneTarget.model_validate({unit: keep}), PruneTarget(speedup=1 / keep)):
        milder = eased(target, by)
        if milder is None:
            assert (1 - keep) * (1 - by) < 0.01
        else:
            assert 1 - milder.keep == pytest.approx((1 - keep) * (1 - by), abs=1e-4)
            assert milder.resource == target.resource
            assert (milder.speedup is None) == (target.speedup is None)


def test_the_first_trial_that_holds_wins_and_the_chain_goes_on(desk: Desk) -> None:
    ran = desk.run(backing_off(), maps=MAPS).ran
    assert ran == tuple(NAMES)
    assert trials(desk) == [
        (1, {"macs": 0.4}, 0.4, False),
        (2, {"macs": 0.55}, 0.55, False),
        (3, {"macs": 0.6625}, 0.6625, True),
    ]
    run = record(desk)
    assert run["status"] == "done"
    assert [stage["name"] for stage in run["stages"]] == NAMES
    assert run["stages"][2]["config"]["target"]["macs"] == 0.6625
    assert (desk.place.run / "03-prune" / "model.pt").read_text().split()[1] == "0.6625"
    assert (desk.place.run / "05-qat" / "model.pt").read_text().split()[1] == "0.6625"


def test_each_trial_is_recorded_with_its_gate_and_where_its_files_are(desk: Desk) -> None:
    desk.run(backing_off(), maps=MAPS)
    for row in record(desk)["trials"]:
        (gate,) = row["gates"]
        assert gate["value"] == pytest.approx(recovered(row["achieved"]))
        assert gate["limit"] == pytest.approx(0.59)
        for folder in row["kept_in"].values():
            assert (Path(folder) / "model.pt").read_text().split()[1] == str(row["achieved"])


def test_a_speedup_stays_a_speedup(desk: Desk) -> None:
    desk.run(backing_off(target={"speedup": 2.5}), maps=MAPS)
    assert [row["target"] for row in record(desk)["trials"]] == [
        {"speedup": 2.5},
        {"speedup": 1.818182},
        {"speedup": 1.509434},
    ]


@pytest.mark.parametrize(
    ("back_off", "count"),
    [({"tries": 1}, 2), ({"tries": 2, "by": 0.1}, 3), ({"by": 0.99, "tries": 9}, 1)],
    ids=["one try", "two small ones", "nothing left to give back"],
)
def test_where_no_trial_holds_the_last_stays_and_the_gate_is_missed(
    desk: Desk, back_off: dict[str, Any], count: int
) -> None:
    hopeless: Maps = {**MAP, "finetune": lambda keep: keep / 10}
    with pytest.raises(GateError, match="'finetune' misses its accept gate") as missed:
        desk.run(backing_off(**back_off), maps=hopeless)
    assert (f"in all {count} trials" in str(missed.value)) == (count > 1)
    run = record(desk)
    assert run["status"] == "gate"
    assert [row["trial"] for row in run["trials"]] == list(range(1, count + 1))
    assert not any(row["passed"] for row in run["trials"])
    last = run["trials"][-1]["achieved"]
    assert (desk.place.run / "04-finetune" / "model.pt").read_text().split()[1] == str(last)
    assert all(Path(folder).is_dir() for row in run["trials"] for folder in row["kept_in"].values())


def test_running_again_is_instant_and_changes_nothing(desk: Desk) -> None:
    of = backing_off()
    desk.run(of, maps=MAPS)
    hashes, before = desk.hashes(), record(desk)
    written = (desk.place.run / "run.json").stat().st_mtime_ns
    assert desk.run(of, maps=MAPS).ran == ()
    assert (desk.hashes(), record(desk)) == (hashes, before)
    assert (desk.place.run / "run.json").stat().st_mtime_ns == written
    assert len(desk.reports) == 1


def test_a_gate_that_holds_at_once_is_one_trial(desk: Desk) -> None:
    desk.run(backing_off(target={"macs": 0.7}), maps=MAPS)
    assert trials(desk) == [(1, {"macs": 0.7}, 0.7, True)]


def test_a_bench_can_send_the_run_back_past_all_stages(desk: Desk) -> None:
    desk.run(backing_off("bench"), maps=MAPS)
    assert [row["passed"] for row in record(desk)["trials"]] == [False, False, True]
    assert [stage["name"] for stage in record(desk)["stages"]] == NAMES


def test_pruning_less_is_no_answer_to_a_missed_speed(desk: Desk) -> None:
    of = backing_off("bench")
    gates = of.stages[-1].accept.model_copy(update={"min_speedup": 9.0})  # type: ignore[union-attr]
    bench = of.stages[-1].model_copy(update={"accept": gates})
    with pytest.raises(GateError, match="speedup"):
        desk.run(of.model_copy(update={"stages": [*of.stages[:-1], bench]}), maps=MAPS)
    assert [row["trial"] for row in record(desk)["trials"]] == [1]


def test_stages_before_the_prune_are_left_alone_even_if_forced(desk: Desk) -> None:
    begun: list[str] = []

    def count(stage: str, now: str, context: object) -> None:
        if now == "begin":
            begun.append(stage)

    desk.run(backing_off(), Selection(force=("base",)), hook=count, maps=MAPS)
    assert [begun.count(kind) for kind in ("train", "prune", "finetune", "qat")] == [2, 3, 3, 1]


def test_plan_follows_the_trials_that_are_stored(desk: Desk) -> None:
    of = backing_off()
    first = desk.plan(of)
    assert first["finetune"].note.endswith("'prune' is eased and run again, up to 3 times")
    assert {step.state for step in first.values()} == {"miss"}
    desk.run(of, maps=MAPS)
    after = desk.plan(of)
    assert list(after) == NAMES
    assert {step.state for step in after.values()} == {"hit"}
    assert after["prune"].note == "trial 3: target macs 0.6625"


def test_plan_stops_at_the_first_trial_that_is_not_stored(desk: Desk) -> None:
    with pytest.raises(GateError):
        desk.run(backing_off(tries=1), maps=MAPS)
    planned = desk.plan(backing_off(tries=3))
    assert (planned["prune"].state, planned["prune"].note) == (
        "miss",
        "trial 3: target macs 0.6625",
    )
    assert planned["prune"].reason == "target.macs 0.55 -> 0.6625"
    assert planned["finetune"].state == "miss"
    assert planned["finetune"].note.endswith("once")


@pytest.mark.slow
def test_kill_at_every_change_on_disk_and_again(tmp_path: Path) -> None:
    of = backing_off(only=SHORT, tries=2)
    straight = Desk.at(tmp_path / "straight")
    straight.run(of, maps=MAPS)
    killed, count = True, 1
    while killed:
        desk = Desk.at(tmp_path / str(count))

        def work(desk: Desk = desk, count: int = count) -> None:
            kill_at(count, desk.folder)
            desk.run(of, maps=MAPS)

        killed = in_child(work)
        desk.run(of, maps=MAPS)
        assert desk.hashes() == straight.hashes()
        assert trials(desk) == trials(straight)
        assert not leftovers(desk)
        count += 7
    assert count > 60
