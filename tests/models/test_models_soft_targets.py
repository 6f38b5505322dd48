"""Soft class targets: by hand, and in the stock criterion of every kind of head."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_tasks import draw_task_data
from small_nets import IMGSZ
from task_nets import TASKS, task_net
from torch import Tensor, nn

from compress.models.raw_outputs import first_images
from compress.models.soft_targets import SoftAssigner
from compress.models.train_samples import train_samples

HEADS = ["Detect", "Segment", "Pose", "OBB", "v10Detect", "Detect26", "Segment26", "Pose26"]
IMAGES = 4


@dataclass
class Targets:
    """An assigner that assigns what it was given, and remembers what it returned."""

    scores: Tensor
    foreground: Tensor
    topk: int = 13
    asked: list[Any] = field(default_factory=list)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self.asked.append((args, kwargs))
        return "labels", "boxes", self.scores, self.foreground, "objects"


@pytest.fixture
def targets() -> Targets:
    """One image, three cells: class 1 in the first, class 0 in the second, then background."""
    scores = torch.tensor([[[0.0, 0.8, 0, 0], [0.4, 0, 0, 0], [0, 0, 0, 0]]])
    return Targets(scores, torch.tensor([[True, True, False]]))


def test_smoothing_by_hand(targets: Targets) -> None:
    soft = SoftAssigner(targets, 0.1, 0.0)("one", key="two")
    assert (soft[0], soft[1], soft[4]) == ("labels", "boxes", "objects")
    assert targets.asked == [(("one",), {"key": "two"})]
    expected = [[0.02, 0.74, 0.02, 0.02], [0.37, 0.01, 0.01, 0.01], [0, 0, 0, 0]]
    assert torch.allclose(soft[2], torch.tensor([expected]))
    assert torch.allclose(soft[2].sum(), targets.scores.sum())


def test_the_teachers_share_by_hand(targets: Targets) -> None:
    assigner = SoftAssigner(targets, 0.1, 0.25)
    teacher = torch.tensor([[[0.1, 0.6, 0.0, 0.3], [1.0, 0, 0, 0], [0.9, 0.9, 0.9, 0.9]]])
    assigner.teacher_scores = torch.cat([teacher, torch.ones(2, 3, 4)])  # two have no labels
    expected = [[0.04, 0.705, 0.015, 0.09], [0.5275, 0.0075, 0.0075, 0.0075], [0, 0, 0, 0]]
    assert torch.allclose(assigner()[2], torch.tensor([expected]))
    assigner.teacher_scores = None
    assert assigner()[2][0, 0].tolist() == pytest.approx([0.02, 0.74, 0.02, 0.02])


def test_the_assigners_own_targets_stay(targets: Targets) -> None:
    before = targets.scores.clone()
    SoftAssigner(targets, 0.2, 0.0)()
    assert torch.equal(targets.scores, before)


def test_all_else_is_the_assigners(targets: Targets) -> None:
    assigner = SoftAssigner(targets, 0.1, 0.0)
    assert assigner.topk == 13
    targets.topk = 5
    assert deepcopy(assigner).topk == 5
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = assigner.no_such_thing


@pytest.fixture(scope="module")
def case_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[nn.Module, dict[str, Any]]]:
    """Head -> a net in train mode and a labelled batch of its task."""
    root = tmp_path_factory.mktemp("soft")
    made: dict[str, tuple[nn.Module, dict[str, Any]]] = {}

    def make(head: str) -> tuple[nn.Module, dict[str, Any]]:
        if head not in made:
            folder = root / TASKS[head]
            yaml = folder / "data.yaml" if folder.exists() else draw_task_data(folder, TASKS[head])
            net = task_net(root, head, folder / "images" / "train")
            samples = train_samples(net, Path(yaml), IMGSZ, IMAGES, 0)
            net.args = samples.arguments
            made[head] = net.train(), next(samples.batches(IMAGES, torch.device("cpu")))
        return made[head]

    return make


def trained_branch(criterion: Any, preds: Any) -> tuple[Any, Any]:
    """Of an end-to-end net the one-to-many branch and its predictions."""
    found = criterion.one2many.parse_output(preds) if hasattr(criterion, "one2many") else preds
    return getattr(criterion, "one2many", criterion), found.get("one2many", found)


class Recorder:
    """An assigner that remembers what another one returned."""

    def __init__(self, assigner: Any) -> None:
        self.assigner = assigner

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        self.found: tuple[Any, ...] = self.assigner(*args, **kwargs)
        return self.found


@pytest.mark.parametrize("head", HEADS)
def test_without_smoothing_and_share_the_loss_is_the_stock_one(
    head: str, case_of: Callable[[str], tuple[nn.Module, dict[str, Any]]]
) -> None:
    net, batch = case_of(head)
    preds = net(batch["img"])
    stock, items = net.init_criterion()(preds, batch)
    criterion = net.init_criterion()
    assigner = SoftAssigner.install(criterion, 0.0, 0.0)
    assigner.teacher_scores = torch.rand(IMAGES, preds_cells(criterion, preds), 3)
    soft, soft_items = criterion(preds, batch)
    assert torch.equal(soft, stock)
    assert all(torch.equal(soft_items[name], items[name]) for name in items)
    assert stock.sum() > 0


@pytest.mark.parametrize("head", HEADS)
def test_the_class_loss_is_that_of_the_soft_targets(
    head: str, case_of: Callable[[str], tuple[nn.Module, dict[str, Any]]]
) -> None:
    net, batch = case_of(head)
    preds = net(batch["img"])
    stock, criterion = net.init_criterion(), net.init_criterion()
    assigner = SoftAssigner.install(criterion, 0.1, 0.4)
    assigner.assigner = recorder = Recorder(assigner.assigner)
    teacher = torch.rand(IMAGES, preds_cells(criterion, preds), 3)
    assigner.teacher_scores = teacher
    branch, outputs = trained_branch(criterion, preds)
    items = branch.loss(outputs, batch)[1]

    _, _, scores, foreground, _ = recorder.found
    assert foreground.sum() > IMAGES
    expected = torch.zeros_like(scores)
    for image, cell in foreground.nonzero().tolist():
        for kind in range(3):
            hard = float(scores[image, cell, kind])
            smooth = 0.9 * hard + 0.1 * float(scores[image, cell].max()) / 3
            theirs = float(teacher[image, cell, kind])
            expected[image, cell, kind] = 0.6 * smooth + 0.4 * theirs
    logits = outputs["scores"].permute(0, 2, 1)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, expected, reduction="sum")
    by_hand = net.args.cls * loss / expected.sum().clamp(min=1)
    assert items["cls_loss"].item() == pytest.approx(by_hand.item(), rel=1e-4)
    hard_branch, outputs = trained_branch(stock, preds)
    hard_items = hard_branch.loss(outputs, batch)[1]
    assert items["cls_loss"].item() != pytest.approx(hard_items["cls_loss"].item(), rel=1e-3)


def test_only_the_first_images_have_labels(
    case_of: Callable[[str], tuple[nn.Module, dict[str, Any]]],
) -> None:
    net, batch = case_of("Detect")
    preds = first_images(net(batch["img"]), 2)
    labels = batch["batch_idx"] < 2
    part = {key: batch[key][labels] for key in ("batch_idx", "cls", "bboxes")}
    losses = []
    teacher = torch.rand(IMAGES, preds["scores"].shape[2], 3)
    for scores in (teacher, teacher[:2]):
        criterion = net.init_criterion()
        SoftAssigner.install(criterion, 0.0, 0.5).teacher_scores = scores
        losses.append(criterion(preds, part)[0])
    assert torch.equal(*losses)


def test_other_criteria_and_the_one_to_one_branch_stay_as_they_are(
    case_of: Callable[[str], tuple[nn.Module, dict[str, Any]]],
) -> None:
    net, batch = case_of("Detect26")
    preds = net(batch["img"])
    stock = net.init_criterion()
    before, items = stock(preds, batch)
    criterion = net.init_criterion()
    SoftAssigner.install(criterion, 0.5, 0.0)
    loss, soft_items = criterion(preds, batch)
    assert not torch.equal(loss, before)
    # what is reported comes from the one-to-one branch
    assert all(torch.equal(soft_items[name], items[name]) for name in items)
    assert torch.equal(net.init_criterion()(preds, batch)[0], before)


def preds_cells(criterion: Any, preds: Any) -> int:
    return int(trained_branch(criterion, preds)[1]["scores"].shape[2])
