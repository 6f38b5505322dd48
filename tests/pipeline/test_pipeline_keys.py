from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pipeline_fakes import NAMES, Desk, fake_table, recipe

from compress.pipeline import keys
from compress.pipeline.contract import Artifact
from compress.pipeline.job import Job
from compress.pipeline.keys import differences, key_material, key_of
from compress.pipeline.links import Input, link_steps
from compress.pipeline.stage_table import STAGES


def material(job: Job, name: str = "finetune", table: Any = None, **inputs: str) -> dict[str, Any]:
    (step,) = (step for step in link_steps(job.recipe, table or fake_table()) if step.name == name)
    hashes = inputs or {"checkpoint": "a", "teacher.0": "b"}
    given = {key: Input(Artifact(job.source, sha), "") for key, sha in hashes.items()}
    return key_material(step, job, given)


KEPT = {"base": "497d531f873f553c", "prune": "beb7444883ce9ecc", "finetune": "c754185f6cda775b"}
DISTILL = {"losses": [{"kind": "cwd"}]}
CHANGES: dict[str, Callable[[Job], dict[str, Any]]] = {
    "train.epochs 60 -> 80": lambda job: material(
        replace(job, recipe=recipe({"finetune": {"train": {"epochs": 80}}}))
    ),
    "train.mosaic not set -> 0.0": lambda job: material(
        replace(job, recipe=recipe({"finetune": {"train": {"epochs": 60, "mosaic": 0.0}}}))
    ),
    "distill.losses[0].weight 1.0 -> 2.0": lambda job: material(
        replace(
            job,
            recipe=recipe({"finetune": {"distill": {"losses": [{"kind": "cwd", "weight": 2.0}]}}}),
        )
    ),
    "imgsz 640 -> 320": lambda job: material(replace(job, recipe=recipe(imgsz=320))),
    "seed 0 -> 1": lambda job: material(replace(job, recipe=recipe(seed=1))),
    "the data set changed": lambda job: material(replace(job, fingerprint="0" * 64)),
    "its input 'checkpoint' changed": lambda job: material(
        job, **{"checkpoint": "other", "teacher.0": "b"}
    ),
    "its input 'teacher.1' changed": lambda job: material(
        job, **{"checkpoint": "a", "teacher.0": "b", "teacher.1": "c"}
    ),
    "its input 'unlabeled' changed": lambda job: material(
        job, **{"checkpoint": "a", "teacher.0": "b", "unlabeled": "c"}
    ),
    "the file of your own layers (`modules:`) changed": lambda job: material(
        replace(job, modules=Artifact(job.source, "m"))
    ),
    "the stage itself changed (version 1 -> 9)": lambda job: material(
        job, table={name: replace(kind, version=9) for name, kind in fake_table().items()}
    ),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_what_changes_the_result_changes_the_key_and_is_named(desk: Desk, reason: str) -> None:
    job = desk.job()
    before, after = material(job), CHANGES[reason](job)
    assert key_of(before) != key_of(after)
    assert differences(before, after) == [reason]


def test_version_of_a_library_is_part_of_the_key(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = material(desk.job())
    monkeypatch.setattr(keys, "version", lambda name: "9.9" if name == "torch" else "absent")
    after = material(desk.job())
    assert any(change.startswith("torch ") for change in differences(before, after))


@pytest.mark.parametrize(
    ("changes", "top"),
    [
        ({"finetune": {"name": "recover"}}, {}),
        ({"finetune": {"accept": {"map50": {"max_drop": 0.5}}}}, {}),
        ({"finetune": {"distill": DISTILL | {"teachers": ["base"]}}}, {}),
        ({}, {"workers": 0}),
    ],
    ids=["name", "gates", "reference of a teacher", "workers"],
)
def test_what_does_not_change_the_result_leaves_the_key(
    desk: Desk, changes: dict[str, Any], top: dict[str, Any]
) -> None:
    name = changes.get("finetune", {}).get("name", "finetune")
    assert material(desk.job(recipe(changes, **top)), name) == material(desk.job())


@pytest.mark.parametrize(
    ("device", "kind"), [("0", "cuda"), ("3", "cuda"), ("cuda:1", "cuda"), ("mps", "mps")]
)
def test_the_kind_of_another_device_is_part_of_the_key(desk: Desk, device: str, kind: str) -> None:
    job = desk.job(recipe(device=device))
    for name in ("base", "teacher", "finetune", "qat"):
        assert material(job, name) == {**material(desk.job(), name), "device": kind}
    assert "device" not in material(desk.job())
    assert material(job, "export") == material(desk.job(), "export")


@pytest.mark.parametrize("name", ["ptq", "qat", "export", "bench"])
def test_whatever_makes_or_measures_int8_is_in_its_key(name: str) -> None:
    measured = set() if name == "export" else {"openvino"}
    assert set(STAGES[name].libraries) == measured | {
        "torch",
        "torchvision",
        "ultralytics",
        "numpy",
        "opencv-python",
        "onnx",
        "onnxruntime",
    }


def test_keys_of_trainings_on_the_cpu_stay_what_they_are(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of work are stored under them: a change here must be one of ``version``."""
    monkeypatch.setattr(keys, "version", lambda name: "1.0")
    machine = SimpleNamespace(cpu="cpu", usable_cores=2)
    monkeypatch.setattr(keys, "read_machine", lambda: machine)
    digests = {name: key_of(material(desk.job(), name))[:16] for name in KEPT}
    assert digests == KEPT


def test_defaults_written_out_leave_the_key(desk: Desk) -> None:
    spelled = recipe({"finetune": {"train": {"epochs": 60, "batch": 16, "lr0": 0.001}}})
    assert material(desk.job(spelled)) == material(desk.job())


UNTIMED = {"accept": {"never_slower": False}}


@pytest.mark.parametrize(
    ("name", "changes", "depends"),
    [
        ("bench", {}, True),
        ("prune", {}, True),
        ("prune", UNTIMED, False),
        ("prune", UNTIMED | {"target": {"latency": 0.5}}, True),
        *((name, {}, False) for name in ("base", "finetune", "qat", "export")),
    ],
)
def test_only_what_measures_time_depends_on_the_machine(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any], depends: bool
) -> None:
    def on(cpu: str) -> str:
        machine = SimpleNamespace(cpu=cpu, usable_cores=4)
        monkeypatch.setattr(keys, "read_machine", lambda: machine)
        return key_of(material(desk.job(recipe({name: changes})), name))

    assert (on("fast") != on("slow")) == depends


def test_whether_time_is_measured_is_in_the_key_and_other_gates_are_not(desk: Desk) -> None:
    def of(accept: dict[str, Any]) -> dict[str, Any]:
        return material(desk.job(recipe({"prune": {"accept": accept}})), "prune")

    other = {"map50": {"max_drop": 0.1}, "back_off": {"tries": 9}}
    assert of(other) == of({})
    assert "accept.never_slower True -> False" in differences(of({}), of({"never_slower": False}))


def test_layers_of_the_users_own_are_in_every_key_by_content(desk: Desk) -> None:
    def of(sha: str, file: str = "a.py") -> dict[str, str]:
        job = replace(desk.job(), modules=Artifact(desk.folder / file, sha))
        return {name: key_of(material(job, name)) for name in NAMES}

    assert of("m") == of("m", "moved.py")
    assert not set(of("m").values()) & set(of("other").values())


def test_the_path_of_unlabeled_images_leaves_the_key(desk: Desk) -> None:
    def of(folder: str) -> dict[str, Any]:
        distill = DISTILL | {"unlabeled": {"images": folder}}
        given = {"checkpoint": "a", "teacher.0": "b", "unlabeled": "c"}
        return material(desk.job(recipe({"finetune": {"distill": distill}})), **given)

    assert of("extra") == of("/elsewhere/extra")


def test_references_of_teachers_that_help_recover_leave_the_key(desk: Desk) -> None:
    def of(teacher: str) -> dict[str, Any]:
        recover = {"train": {"epochs": 1}, "distill": DISTILL | {"teachers": [teacher]}}
        job = desk.job(recipe({"prune": {"steps": 2, "recover": recover}}))
        return material(job, "prune", **{"checkpoint": "a", "teacher.0": "b"})

    assert of("teacher") == of("base")


def test_a_changed_field_of_every_stage_is_seen(desk: Desk) -> None:
    """No field but the name and the gates may fall out of the key."""
    for config in desk.job().recipe.stages:
        step = SimpleNamespace(kind=fake_table()[config.stage], config=config, links={})
        dumped = key_material(step, desk.job(), {})["config"]  # type: ignore[arg-type]
        assert set(type(config).model_fields) - set(dumped) <= {"name", "accept"}


def test_artifacts_are_compared_by_content_alone(desk: Desk) -> None:
    artifact = Artifact(desk.folder / "n.pt", "a")
    moved = dataclasses.replace(artifact, path=desk.folder / "elsewhere.pt")
    step = link_steps(recipe(), fake_table())[0]
    first, second = (
        key_material(step, desk.job(), {"weights": Input(item, str(item.path))})
        for item in (artifact, moved)
    )
    assert first == second
