"""Distillation inside a training: who learns, who does not, and how much it weighs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lessons import (
    CPU,
    FEATURE_KINDS,
    OUTPUT_KINDS,
    Classroom,
    batch_of,
    counting,
    eval_with_raw_outputs,
    term,
)
from slow import slow
from small_nets import IMGSZ, NAMES, Silent, pruned_copy, settled_net
from torch import Tensor, nn

from compress.distill.extension import Distillation
from compress.distill.schedule import Phase, Weight
from compress.distill.settings import Settings
from compress.distill.teachers import TeacherSpec
from compress.distill.terms import TermSpec
from compress.errors import CompressError
from compress.models.build import build_model
from compress.models.exportable import fused_copy
from compress.models.inspect import head_branches, neck_layers
from compress.models.trainer import TrainingJob, train
from compress.models.unlabeled import LABELLED

CWD = term("cwd")
BASE_NAMES = ("box_loss", "cls_loss", "dfl_loss")


@pytest.fixture(scope="module")
def wide_net(wide_yaml: Path, images: Tensor) -> nn.Module:
    """A teacher of another width."""
    return settled_net(wide_yaml, images, seed=3)


@pytest.fixture
def job(data_yaml: Path, tmp_path: Path) -> Callable[..., TrainingJob]:
    def make(**arguments: object) -> TrainingJob:
        given = {"epochs": 1, "batch": 8, "optimizer": "SGD", "lr0": 0.01, "warmup_epochs": 0}
        return TrainingJob(
            data_yaml, 16, IMGSZ, 0, "cpu", 0, tmp_path / "scratch", {**given, **arguments}
        )

    return make


# mgd hides positions at random: never 0
@pytest.mark.parametrize("kind", [k for k in (*FEATURE_KINDS, *OUTPUT_KINDS) if k != "mgd"])
def test_a_net_has_nothing_to_learn_from_itself(kind: str, net: nn.Module, images: Tensor) -> None:
    def gradient(teacher: nn.Module) -> tuple[float, float]:
        student = fused_copy(net).requires_grad_(True)
        room = Classroom(student, teacher, terms=[term(kind)])
        eval_with_raw_outputs(student)  # as the teacher computes
        loss, items = room.loss(images)
        loss[-1].backward()
        grads = [p.grad.abs().max().item() for p in student.parameters() if p.grad is not None]
        return items[f"kd_{kind}"].item(), max(grads, default=0.0)

    value, slope = gradient(fused_copy(net))  # teachers are folded: now they agree to the bit
    other_value, other_slope = gradient(settled_net_of(net))
    assert value == pytest.approx(0.0, abs=1e-5 * other_value)
    assert slope < 1e-4 * other_slope


@pytest.mark.parametrize("kind", [*FEATURE_KINDS, *OUTPUT_KINDS])
def test_every_loss_teaches_a_student_of_another_width(
    kind: str, net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    net.requires_grad_(True)
    room = Classroom(net, deepcopy(wide_net), terms=[term(kind)])
    loss, items = room.loss(images)
    assert items[f"kd_{kind}"].item() > 0
    loss[-1].backward()
    gradients = [p.grad.abs().max().item() for p in net.parameters() if p.grad is not None]
    assert len(gradients) > 50
    assert max(gradients) > 1e-6
    bridges = list(room.distillation.lessons[0].modules.parameters())
    assert all(p.grad is not None for p in bridges)


def test_the_detection_loss_stays_as_it_is(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    room = Classroom(net, deepcopy(wide_net), terms=[CWD])
    loss, items = room.loss(images)
    stock_loss, stock_items = room.stock(room.student(images), batch_of(images))
    assert torch.allclose(loss[:-1], stock_loss)
    assert items.keys() == {*stock_items, "kd_cwd"}
    assert all(torch.allclose(items[name], value) for name, value in stock_items.items())


@pytest.mark.parametrize("kind", ["cwd", "bckd"])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_defect_5_the_loss_grows_with_the_batch_as_the_detection_loss_does(
    count: int, kind: str, net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    room = Classroom(net, deepcopy(wide_net), terms=[term(kind)])
    eval_with_raw_outputs(net)  # BatchNorm must not see how many images share a batch
    loss, items = room.loss(images[:1].repeat(count, 1, 1, 1))
    shown = torch.stack([items[name] for name in (*BASE_NAMES, f"kd_{kind}")])
    assert torch.allclose(loss, count * shown, rtol=1e-5)
    _, items_of_one = room.loss(images[:1])
    assert items[f"kd_{kind}"].item() == pytest.approx(items_of_one[f"kd_{kind}"].item(), rel=1e-4)


def test_terms_are_weighted_and_averaged_over_teachers(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    terms = [term("cwd", 2.0), term("bce")]

    def values(*teachers: TeacherSpec, gain: float = 1.0) -> dict[str, float]:
        torch.manual_seed(0)  # bridges are drawn
        room = Classroom(net, *teachers, terms=terms, settings=Settings(gain=gain))
        eval_with_raw_outputs(net)
        _, items = room.loss(images)
        room.distillation.close()
        return {name: items[name].item() for name in ("kd_cwd", "kd_bce")}

    other = settled_net_of(net)
    first, second = values(TeacherSpec(deepcopy(net))), values(TeacherSpec(deepcopy(other)))
    both = values(TeacherSpec(deepcopy(net), 1.0), TeacherSpec(deepcopy(other), 3.0), gain=0.5)
    for name in both:
        assert both[name] == pytest.approx(0.5 * (first[name] + 3 * second[name]) / 4, rel=1e-4)
    assert second["kd_cwd"] > 0


def settled_net_of(net: nn.Module) -> nn.Module:
    """A net of the same shape that computes something else."""
    other = deepcopy(net)
    torch.manual_seed(9)
    for parameter in other.parameters():
        parameter.data += 0.1 * parameter.abs().mean() * torch.randn_like(parameter)
    return other


def test_features_are_compared_in_float32_under_autocast(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    room = Classroom(net, deepcopy(wide_net), terms=[CWD, term("bckd")])
    eval_with_raw_outputs(net)
    _, exact = room.loss(images)
    with torch.autocast("cpu", torch.bfloat16):
        loss, items = room.loss(images)
    assert items["kd_cwd"].dtype == items["kd_bckd"].dtype == torch.float32
    assert torch.isfinite(loss).all()
    for name in ("kd_cwd", "kd_bckd"):
        assert items[name].item() == pytest.approx(exact[name].item(), rel=0.1)


def test_a_pruned_student_learns_from_its_parent(net: nn.Module, images: Tensor) -> None:
    pruned = pruned_copy(net, 0.4)
    room = Classroom(pruned, net, terms=[CWD, term("crosskd")])
    _, items = room.loss(images)
    assert items["kd_cwd"].item() > 0
    assert items["kd_crosskd"].item() > 0


def test_unlabeled_images_have_no_ground_truth_but_a_teacher(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    room = Classroom(net, deepcopy(wide_net), terms=[term("bce")])
    eval_with_raw_outputs(net)
    labels = {k: v for k, v in batch_of(images[:3]).items() if k != "img"}
    loss, items = room.loss(images, **labels, **{LABELLED: 3})
    stock, _ = room.stock(net(images[:3]), batch_of(images[:3]))
    assert torch.allclose(loss[:3], stock, rtol=1e-4)
    _, alone = room.loss(images[:3])
    assert items["kd_bce"].item() != pytest.approx(alone["kd_bce"].item(), rel=1e-3)
    # an image with labels but without objects is background, not unlabeled
    background, _ = room.loss(images, **labels)
    assert not torch.allclose(background[1], stock[1], rtol=1e-2)


def test_pseudo_labels_stand_in_for_the_ground_truth_of_unlabeled_images(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    labels = {k: v for k, v in batch_of(images[:3]).items() if k != "img"}

    def box_loss(confidence: float) -> float:
        settings = Settings(pseudo_labels=(confidence, 0.6))
        room = Classroom(net, deepcopy(wide_net), terms=[CWD], settings=settings)
        eval_with_raw_outputs(net)
        loss, _ = room.loss(images, **labels, **{LABELLED: 3})
        room.distillation.close()
        return float(loss[0])

    assert box_loss(0.3) != pytest.approx(box_loss(0.999), rel=1e-3)


def test_the_ground_truth_can_be_weighed_or_left_out(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    settings = Settings(labels=0.25)
    room = Classroom(net, deepcopy(wide_net), terms=[CWD], settings=settings)
    eval_with_raw_outputs(net)
    loss, _ = room.loss(images)
    stock, _ = room.stock(net(images), batch_of(images))
    assert torch.allclose(loss[:3], 0.25 * stock)


def test_phases_say_what_is_learned_and_how_fast(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    phases = (
        Phase(2, frozenset({"features"}), 0.1),
        Phase(3, frozenset({"outputs", "labels"}), None),
        Phase(5, frozenset({"labels"}), 0.3),
    )
    room = Classroom(
        net, deepcopy(wide_net), terms=[CWD, term("bce")], settings=Settings(phases=phases)
    )
    seen = []
    for epoch in (1, 2, 9):
        room.distillation.start_epoch(epoch)
        loss, _ = room.loss(images)
        seen.append([bool(value != 0) for value in (loss[:3].sum(), loss[3], loss[4])])
    assert seen == [[False, True, False], [True, False, True], [True, False, False]]
    assert [room.distillation.learning_rate(epoch) for epoch in (0, 4, 5)] == [0.1, None, 0.3]
    assert [room.distillation.counts(epoch) for epoch in (1, 2, 5)] == [False, True, True]


def test_a_teacher_that_counts_for_nothing_is_not_asked(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    terms = [term("cwd", Weight(1.0, stop=3)), term("bce", Weight(1.0, with_mosaic=True))]
    room = Classroom(net, deepcopy(wide_net), terms=terms)  # 10 epochs, mosaic ends at 8
    asked: list[int] = []
    teacher = room.distillation.lessons[0].model
    teacher.register_forward_pre_hook(lambda *_: asked.append(1))
    shown = []
    for epoch in (2, 3, 8):
        room.distillation.start_epoch(epoch)
        _, items = room.loss(images)
        shown.append([items[name].item() > 0 for name in ("kd_cwd", "kd_bce")])
    assert shown == [[True, True], [False, True], [False, False]]
    assert len(asked) == 2


def test_shares_of_the_gradient_are_measured_now_and_then(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    net.requires_grad_(True)
    room = Classroom(net, deepcopy(wide_net), terms=[CWD, term("bckd", 5.0)])
    loss, _ = room.loss(images)
    curves = room.distillation.curves()
    assert set(curves) == {"gradient/labels", "gradient/cwd", "gradient/bckd"}
    assert sum(curves.values()) == pytest.approx(1.0)
    parameters = [p for p in net.parameters() if p.requires_grad]
    norms = []
    for part in (loss[:3].sum(), loss[3], loss[4]):
        grads = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
        norms.append(sum(g.square().sum() for g in grads if g is not None).sqrt().item())
    expected = dict(zip(curves, [norm / sum(norms) for norm in norms], strict=True))
    assert curves == pytest.approx(expected, rel=1e-3)
    assert not room.criterion.measuring
    room.distillation.start_epoch(1)  # 5 batches an epoch: the next is at 100 batches
    assert not room.criterion.measuring
    room.distillation.start_epoch(20)
    assert room.criterion.measuring


def test_shares_are_measured_anew_where_other_losses_begin_to_count(
    net: nn.Module, wide_net: nn.Module
) -> None:
    phases = (Phase(2, frozenset({"features"})), Phase(8, frozenset({"labels"})))
    room = Classroom(net, deepcopy(wide_net), terms=[CWD], settings=Settings(phases=phases))
    measured = []
    for epoch in range(4):
        room.distillation.start_epoch(epoch)
        measured.append(room.criterion.measuring)
    assert measured == [True, False, True, False]


def test_hard_images_count_more(net: nn.Module, wide_net: nn.Module, images: Tensor) -> None:
    values = []
    for hard in (False, True):
        torch.manual_seed(0)
        room = Classroom(
            net, deepcopy(wide_net), terms=[term("bce")], settings=Settings(difficulty=hard)
        )
        eval_with_raw_outputs(net)
        values.append(room.loss(images)[1]["kd_bce"].item())
        room.distillation.close()
    assert values[1] > values[0]  # what is far from the teacher has the larger loss


def test_maps_are_mixed_for_the_teacher_and_never_for_the_labels(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    losses = []
    for share in (0.0, 1.0):
        torch.manual_seed(0)
        room = Classroom(net, deepcopy(wide_net), terms=[CWD], settings=Settings(cutmix=share))
        eval_with_raw_outputs(net)
        losses.append(room.loss(images)[0])
        room.distillation.close()
    assert torch.equal(losses[0][:3], losses[1][:3])
    assert losses[0][3] != losses[1][3]


def test_soft_targets_take_the_teachers_scores(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    settings = Settings(soft_targets=(0.1, 0.5))
    room = Classroom(
        net, deepcopy(wide_net), terms=[term("cwd", Weight(1.0, stop=1))], settings=settings
    )
    eval_with_raw_outputs(net)
    loss, _ = room.loss(images)
    stock, _ = room.stock(net(images), batch_of(images))
    assert not torch.allclose(loss[1], stock[1])
    room.distillation.start_epoch(5)  # no term counts any more, the targets still do
    later, _ = room.loss(images)
    assert torch.allclose(later[1], loss[1])


def test_the_average_of_the_student_can_be_its_teacher(net: nn.Module, images: Tensor) -> None:
    average = settled_net_of(net)
    before = deepcopy(average.state_dict())
    room = Classroom(net, TeacherSpec(None), terms=[CWD, term("bce")], average=lambda: average)
    _, items = room.loss(images)
    assert items["kd_cwd"].item() > 0
    assert items["kd_bce"].item() > 0
    after = average.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    room.distillation.close()
    assert not _hooked(average)


def test_crosskd_goes_through_the_average_and_not_through_the_student(
    net: nn.Module, images: Tensor
) -> None:
    average = settled_net_of(net)

    def loss(average: nn.Module) -> float:
        room = Classroom(net, TeacherSpec(None), terms=[term("crosskd")], average=lambda: average)
        eval_with_raw_outputs(net)
        value = room.loss(images)[1]["kd_crosskd"].item()
        room.distillation.close()
        return value

    before = loss(average)
    for _, classes in head_branches(average).values():
        classes.last.weight.data *= 3
    assert loss(average) != pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("kind", ["bckd", "crosskd", "cwd"])
def test_levels_that_are_not_there_are_refused(kind: str, net: nn.Module) -> None:
    distillation = Distillation([TeacherSpec(deepcopy(net))], [term(kind, levels=(4, 8))])
    with pytest.raises(CompressError, match=r"levels.*\[4\]|\[4\].*levels"):
        distillation.prepare(net, CPU, IMGSZ)


def test_distributions_need_bins_on_both_sides(net: nn.Module) -> None:
    distillation = Distillation([TeacherSpec(deepcopy(net))], [term("ld")])
    net.model[-1].reg_max = 1
    with pytest.raises(CompressError, match="ld compares distributions"):
        distillation.prepare(net, CPU, IMGSZ)


def test_maps_of_a_batch_that_failed_are_forgotten(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    """A second try with a smaller batch must not hold the first one's graph."""
    room = Classroom(net, deepcopy(wide_net), terms=[CWD])
    net(images)
    taps = room.distillation.lessons[0]._taps
    assert any(tap.features for tap in taps)
    room.distillation.start_epoch(0)
    assert not any(tap.features for tap in taps)


def test_soft_targets_weigh_the_teachers(net: nn.Module, images: Tensor) -> None:
    first, second = settled_net_of(net), deepcopy(net)

    def targets(*weights: float) -> Tensor:
        teachers = [
            TeacherSpec(deepcopy(model), weight)
            for model, weight in zip((first, second), weights, strict=True)
        ]
        room = Classroom(net, *teachers, terms=[CWD], settings=Settings(soft_targets=(0.0, 1.0)))
        room.loss(images)
        room.distillation.close()
        scores: Tensor = room.criterion.assigner.teacher_scores
        return scores

    mostly_first, mostly_second = targets(1.0, 1e-6), targets(1e-6, 1.0)
    assert not torch.allclose(mostly_first, mostly_second, atol=1e-2)
    assert torch.allclose(targets(1.0, 3.0), 0.25 * mostly_first + 0.75 * mostly_second, atol=1e-4)


def test_images_without_labels_have_no_foreground_to_learn_from(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    room = Classroom(net, deepcopy(wide_net), terms=[term("fgd")])
    eval_with_raw_outputs(net)
    labels = {k: v for k, v in batch_of(images[:3]).items() if k != "img"}
    _, mixed = room.loss(images, **labels, **{LABELLED: 3})
    _, alone = room.loss(images[:3])
    assert mixed["kd_fgd"].item() == pytest.approx(alone["kd_fgd"].item(), rel=1e-4)


def test_end_to_end_students_need_labels_to_count(net: nn.Module) -> None:
    phases = (Phase(1, frozenset({"outputs"})), Phase(1, frozenset({"labels"})))
    e2e = build_model(Path("yolov10n.yaml"), NAMES, seed=0)
    for model, expected in ((net, [True, True]), (e2e, [False, True])):
        distillation = Distillation([TeacherSpec(deepcopy(net))], [CWD], Settings(phases=phases))
        distillation.prepare(model, CPU, IMGSZ)
        assert [distillation.counts(epoch) for epoch in (0, 1)] == expected


def test_an_online_teacher_learns_from_labels_and_from_the_student(
    net: nn.Module, wide_net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    teacher = deepcopy(wide_net)
    distillation = Distillation([TeacherSpec(teacher, online=True)], [term("bce"), CWD])
    training = train(deepcopy(net), job(epochs=2), Silent(), "test", [distillation])
    before, after = wide_net.state_dict(), teacher.state_dict()
    assert not torch.equal(before["model.0.conv.weight"], after["model.0.conv.weight"])
    assert not torch.equal(before["model.0.bn.running_mean"], after["model.0.bn.running_mean"])
    assert training.weights.keys() == net.state_dict().keys()  # the student's alone
    curves = training.curves
    assert min(curves["train/kd_teacher"]) > 0
    assert min(curves["train/kd_mutual"]) > 0


def test_the_student_gets_no_gradient_from_what_the_teacher_learns(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    net.requires_grad_(True)
    teacher = deepcopy(wide_net)
    room = Classroom(net, TeacherSpec(teacher, online=True), terms=[term("bce")])
    loss, items = room.loss(images)
    assert list(items)[-3:] == ["kd_bce", "kd_teacher", "kd_mutual"]
    loss[-2:].sum().backward(retain_graph=True)
    assert not any(_learns(p) for p in net.parameters())
    assert any(_learns(p) for p in teacher.parameters())
    teacher.zero_grad()
    loss[-3].backward()
    assert any(_learns(p) for p in net.parameters())
    assert not any(_learns(p) for p in teacher.parameters())


def _learns(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


class Watched(Distillation):
    """Remembers the bridges as they were drawn."""

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        super().prepare(model, device, imgsz)
        self.drawn = deepcopy(self.state_dict())


OPTIMIZERS = [
    *("SGD", "AdamW"),
    *slow("NAdam", "RAdam", "RMSProp"),
    "MuSGD",
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_defect_1_bridges_are_trained(
    optimizer: str, net: nn.Module, wide_net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    terms = [CWD, term("mgd"), term("crosskd")]
    distillation = Watched([TeacherSpec(deepcopy(wide_net))], terms)
    train(deepcopy(net), job(optimizer=optimizer), Silent(), "test", [distillation])
    drawn, trained = (
        state["lessons"][0]["bridges"] for state in (distillation.drawn, distillation.state_dict())
    )
    assert all(torch.isfinite(value).all() for value in trained.values())
    weights = [name for name in trained if name.endswith("weight")]
    levels = len(neck_layers(net))
    assert len(weights) == levels * (1 + 3 + 1)  # cwd; projector and generator; classes
    # CWD does not see what is constant in a channel: a bias learns nothing
    assert [name for name in weights if torch.equal(trained[name], drawn[name])] == []


def test_equal_widths_need_no_projector(net: nn.Module) -> None:
    distillation = Distillation([TeacherSpec(deepcopy(net))], [CWD])
    distillation.prepare(net, CPU, IMGSZ)
    assert distillation.parameter_groups(net, 0.1) == []


def test_defects_2_3_and_14_the_teacher_learns_nothing(
    net: nn.Module, wide_net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    teacher = deepcopy(wide_net).train().requires_grad_(True)  # as it must not stay
    distillation = Distillation([TeacherSpec(teacher)], [CWD, term("bckd")])
    seen: list[nn.Module] = []

    class Keeping(Distillation):
        def begin(self, run) -> None:
            super().begin(run)
            seen.append(self.lessons[0].model)
            seen.append(deepcopy(self.lessons[0].model))

    distillation = Keeping([TeacherSpec(teacher)], [CWD, term("bckd")])
    train(deepcopy(net), job(optimizer="AdamW"), Silent(), "test", [distillation])
    for before, after in ((wide_net, teacher), (seen[1], seen[0])):  # as given, and as run
        old, new = before.state_dict(), after.state_dict()
        # weights and BatchNorm statistics alike
        assert [name for name in old if not torch.equal(new[name], old[name])] == []
    assert not seen[0].training
    assert all(p.grad is None and not p.requires_grad for p in seen[0].parameters())


def test_distillation_changes_what_the_student_learns(
    net: nn.Module, wide_net: nn.Module, job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    def kernel(folder: str, terms: list[TermSpec]) -> Tensor:
        extensions = [Distillation([TeacherSpec(deepcopy(wide_net))], terms)] if terms else []
        work = replace(job(), folder=tmp_path / folder)
        training = train(deepcopy(net), work, Silent(), "test", extensions)
        return training.weights["model.15.cv2.conv.weight"]

    plain, weak = kernel("plain", []), kernel("weak", [term("cwd", 1e-6)])
    strong = kernel("strong", [term("cwd", 10.0)])
    assert (plain - weak).abs().max() < 1e-3 * (plain - strong).abs().max()
    assert not torch.equal(plain, strong)


def test_bridges_are_put_back_as_they_were(net: nn.Module, wide_net: nn.Module) -> None:
    first, second = (Distillation([TeacherSpec(deepcopy(wide_net))], [CWD]) for _ in range(2))
    for distillation in (first, second):
        distillation.prepare(net, CPU, IMGSZ)
    second.load_state_dict(deepcopy(first.state_dict()))
    ours, theirs = (d.lessons[0].modules.state_dict() for d in (first, second))
    assert ours.keys() == theirs.keys()
    assert ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_defect_8_hooks_come_off(net: nn.Module, wide_net: nn.Module, images: Tensor) -> None:
    room = Classroom(net, deepcopy(wide_net), terms=[CWD])
    teacher = room.distillation.lessons[0].model
    assert _hooked(net)
    assert _hooked(teacher)
    room.loss(images)
    room.distillation.close()
    assert not _hooked(net)
    assert not _hooked(teacher)
    room.distillation.close()  # twice does no harm


def _hooked(model: nn.Module) -> bool:
    return any(module._forward_hooks for module in model.modules())


def test_the_update_of_an_end_to_end_loss_is_passed_on(net: nn.Module, wide_net: nn.Module) -> None:
    room = Classroom(net, deepcopy(wide_net), terms=[CWD])
    calls: list[int] = []
    room.distillation.wrap_criterion(net, counting(calls)).update()
    assert calls == [1]
    assert not hasattr(room.distillation.wrap_criterion(net, object()), "update")


def test_soft_targets_need_cells_that_agree(net: nn.Module) -> None:
    p6 = build_model(Path("yolov8n-p6.yaml"), NAMES, seed=0)
    distillation = Distillation([TeacherSpec(p6)], [CWD], Settings(soft_targets=(0.1, 0.5)))
    with pytest.raises(CompressError, match="soft_targets"):
        distillation.prepare(net, CPU, IMGSZ)
