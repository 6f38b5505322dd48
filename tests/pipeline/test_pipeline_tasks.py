"""Stages, labels and models of a recipe must suit one task, before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawn_tasks import draw_task_data
from pipeline_fakes import Desk, recipe

from compress.data.dataset import load_dataset
from compress.models.heads import HeadFacts, facts_of_yaml
from compress.pipeline.links import link_steps
from compress.pipeline.tasks import task_faults
from compress.pipeline.weights import weight_faults
from compress.recipe.schema import Recipe

CHAIN = ["base", "prune", "finetune", "export"]


def told(desk: Desk, of: Recipe, data: Path, task: str, **heads: HeadFacts) -> list[str]:
    job = replace(desk.job(of), data=load_dataset(data))
    base = HeadFacts(task, end_to_end=False)
    faults = task_faults(base, {of.model: base, **heads}, job, link_steps(of))
    return [fault for fault in str(job.error(list(faults))).splitlines() if "r.yaml" in fault]


def plain(only: list[str] = CHAIN, **changes: object) -> Recipe:
    return recipe({"finetune": {"distill": None}}, only=only, **changes)


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
def test_pruning_and_plain_training_suit_every_task(task: str, desk: Desk, tmp_path: Path) -> None:
    assert told(desk, plain(), draw_task_data(tmp_path, task), task) == []


@pytest.mark.parametrize(("labels", "task"), [("detect", "segment"), ("segment", "obb")])
def test_labels_of_another_task_are_told_at_the_data(
    labels: str, task: str, desk: Desk, tmp_path: Path
) -> None:
    # four corners are a polygon too: tell them apart by one more
    yaml = draw_task_data(tmp_path, labels)
    for file in (tmp_path / "labels").rglob("*.txt"):
        if labels == "segment":
            file.write_text(file.read_text().replace("\n", " 0.5 0.5\n"))
    (fault,) = told(desk, plain(), yaml, task)
    assert fault.startswith(f"r.yaml: data: does not suit a model for '{task}'")


def test_pose_needs_keypoints_in_the_data(desk: Desk, tmp_path: Path) -> None:
    (fault,) = told(desk, plain(), draw_task_data(tmp_path, "segment"), "pose")
    assert "no kpt_shape" in fault


@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_every_task_is_quantized(task: str, desk: Desk, tmp_path: Path) -> None:
    assert told(desk, recipe(), draw_task_data(tmp_path, task), task) == []


def test_an_end_to_end_head_is_not_trained_for_int8(desk: Desk, tmp_path: Path) -> None:
    job = replace(desk.job(recipe()), data=load_dataset(draw_task_data(tmp_path, "detect")))
    base = HeadFacts("detect", end_to_end=True)
    faults = list(task_faults(base, {"yolov8n.pt": base}, job, link_steps(recipe())))
    assert any("'qat' cannot train an end-to-end head" in fault.message for fault in faults)


def distilling(**section: Any) -> Recipe:
    """A chain whose finetune has this distill section."""
    section = {"losses": [{"kind": "cwd"}], **section}
    return recipe({"finetune": {"distill": section}}, only=CHAIN)


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
def test_distillation_suits_every_task_with_boxes(task: str, desk: Desk, tmp_path: Path) -> None:
    data, teacher = draw_task_data(tmp_path, task), HeadFacts(task, False)
    own = {"segment": "masks", "pose": "keypoints", "obb": "angle"}.get(task, "l2")
    of = distilling(losses=[{"kind": "cwd"}, {"kind": "bce"}, {"kind": own}], teachers=["far.pt"])
    assert told(desk, of, data, task, **{"far.pt": teacher}) == []


@pytest.mark.parametrize("teacher", ["s.pt", "far.pt"])
def test_a_teacher_of_another_task_may_lend_its_features(
    teacher: str, desk: Desk, tmp_path: Path
) -> None:
    of = distilling(teachers=["teacher" if teacher == "s.pt" else teacher])
    data = draw_task_data(tmp_path, "segment")
    assert told(desk, of, data, "segment", **{teacher: HeadFacts("detect", False)}) == []


READ = {
    "losses": {"losses": [{"kind": "cwd"}, {"kind": "bckd"}]},
    "online": {"teachers": [{"model": "far.pt", "online": True}]},
    "soft targets": {"soft_targets": {}},
    "pseudo labels": {"unlabeled": {"images": "extra", "pseudo_labels": {}}},
    "difficulty": {"difficulty": True},
}


@pytest.mark.parametrize("section", READ.values(), ids=READ.keys())
def test_what_a_teacher_of_another_task_predicts_cannot_be_read(
    section: dict[str, Any], desk: Desk, tmp_path: Path
) -> None:
    of = distilling(**{"teachers": ["far.pt"], **section})
    data = draw_task_data(tmp_path, "detect")
    (fault,) = told(desk, of, data, "detect", **{"far.pt": HeadFacts("segment", False)})
    assert fault.startswith(
        "r.yaml: stages[2].distill.teachers[0].model: made for the task 'segment', the recipe's "
        "model for 'detect': only losses on features can compare them"
    )


def test_a_classifier_is_no_teacher(desk: Desk, tmp_path: Path) -> None:
    data = draw_task_data(tmp_path, "detect")
    of = distilling(teachers=["far.pt"])
    (fault,) = told(desk, of, data, "detect", **{"far.pt": HeadFacts("classify", False)})
    assert fault.startswith("r.yaml: stages[2].distill.teachers[0].model: made for the task 'class")


@pytest.mark.parametrize(
    ("loss", "task"), [("masks", "segment"), ("keypoints", "pose"), ("angle", "obb")]
)
def test_losses_of_one_task_are_told_at_their_kind(
    loss: str, task: str, desk: Desk, tmp_path: Path
) -> None:
    of = distilling(losses=[{"kind": "cwd"}, {"kind": loss}], teachers=["base"])
    (fault,) = told(desk, of, draw_task_data(tmp_path, "detect"), "detect")
    assert fault == (
        f"r.yaml: stages[2].distill.losses[1].kind: '{loss}' compares models for '{task}', the "
        "recipe's is for 'detect'. Take it out"
    )


def test_only_detectors_learn_together(desk: Desk, tmp_path: Path) -> None:
    of = distilling(teachers=[{"model": "far.pt", "online": True}])
    data = draw_task_data(tmp_path, "segment")
    (fault,) = told(desk, of, data, "segment", **{"far.pt": HeadFacts("segment", False)})
    assert fault.startswith("r.yaml: stages[2].distill.teachers[0].online: a teacher of a model")


def test_labels_must_suit_the_teacher_that_is_trained_on_them(desk: Desk, tmp_path: Path) -> None:
    data = draw_task_data(tmp_path, "detect")
    (fault,) = told(desk, recipe(), data, "detect", **{"s.pt": HeadFacts("pose", False)})
    assert fault.startswith("r.yaml: data: does not suit a model for 'pose': ")


def test_model_yamls_tell_their_task_without_heavy_libraries(desk: Desk, tmp_path: Path) -> None:
    of = plain(model="yolov8n-cls.yaml")
    job = replace(desk.job(of), data=load_dataset(draw_task_data(tmp_path, "detect")))
    (fault,) = weight_faults(job, link_steps(of))
    assert fault.path == ("model",)
    assert "classifier" in fault.message


def test_facts_of_model_yamls(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    expected = {
        "yolov8n.yaml": HeadFacts("detect", False),
        "yolo11s-seg.yaml": HeadFacts("segment", False),
        "yolov10n.yaml": HeadFacts("detect", True),
        "yolo26n-pose.yaml": HeadFacts("pose", True),
        "yolo12n-obb.yaml": HeadFacts("obb", False),
    }
    assert {name: facts_of_yaml(Path(name)) for name in expected} == expected
    broken = tmp_path / "broken.yaml"
    broken.write_text("nc: [\n")
    assert facts_of_yaml(broken) is None
