"""Distillation inside a training: who learns, who does not, and how much it weighs."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_nets import IMGSZ, NAMES, Silent, pruned_copy, settled_net
from torch import Tensor, nn
from ultralytics.cfg import get_cfg

from compress.distill.extension import Distillation, FeatureTerm
from compress.distill.losses import cwd
from compress.distill.taps import Taps, probe_widths
from compress.errors import CompressError
from compress.models.build import build_model
from compress.models.inspect import neck_layers
from compress.models.trainer import TrainingJob, train

CPU = torch.device("cpu")
TERM = FeatureTerm("cwd", cwd, 1.0)


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


def batch_of(images: Tensor) -> dict[str, Tensor]:
    """A training batch: one square in the middle of every image."""
    count = len(images)
    return {
        "img": images,
        "batch_idx": torch.arange(count).float(),
        "cls": torch.zeros(count, 1),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(count, 1),
    }


def eval_with_raw_outputs(model: nn.Module) -> None:
    """Eval mode, but the head gives what a loss wants."""
    model.eval()
    model.model[-1].training = True


class Bench:
    """A student with the criterion of a distillation, outside of any training."""

    def __init__(self, student: nn.Module, *teachers: nn.Module, terms: list[FeatureTerm]) -> None:
        student.args = get_cfg()
        self.student = student.train()
        self.distillation = Distillation(teachers, terms)
        self.distillation.prepare(student, CPU, IMGSZ)
        self.stock = student.init_criterion()
        self.criterion = self.distillation.wrap_criterion(student, self.stock)

    def loss(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        batch = batch_of(images)
        result: tuple[Tensor, dict[str, Tensor]] = self.criterion(self.student(images), batch)
        return result


def test_a_net_has_nothing_to_learn_from_itself(net: nn.Module, images: Tensor) -> None:
    bench = Bench(net, deepcopy(net), terms=[TERM])
    eval_with_raw_outputs(net.requires_grad_(True))  # as the teacher computes
    loss, items = bench.loss(images)
    assert items["cwd_loss"].item() == pytest.approx(0.0, abs=1e-6)
    loss[-1].backward()
    gradients = [p.grad.abs().max().item() for p in net.parameters() if p.grad is not None]
    assert len(gradients) > 50
    assert max(gradients) < 1e-5  # with another teacher: 28


def test_the_detection_loss_stays_as_it_is(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    bench = Bench(net, deepcopy(wide_net), terms=[TERM])
    loss, items = bench.loss(images)
    stock_loss, stock_items = bench.stock(bench.student(images), batch_of(images))
    assert torch.allclose(loss[:-1], stock_loss)
    assert items.keys() == {*stock_items, "cwd_loss"}
    assert all(torch.allclose(items[name], value) for name, value in stock_items.items())


@pytest.mark.parametrize("count", [1, 4, 8])
def test_the_loss_grows_with_the_batch_as_the_detection_loss_does(
    count: int, net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    bench = Bench(net, deepcopy(wide_net), terms=[TERM])
    eval_with_raw_outputs(net)  # BatchNorm must not see how many images share a batch
    loss, items = bench.loss(images[:1].repeat(count, 1, 1, 1))
    shown = torch.stack([items[name] for name in ("box_loss", "cls_loss", "dfl_loss", "cwd_loss")])
    assert torch.allclose(loss, count * shown, rtol=1e-5)
    _, items_of_one = bench.loss(images[:1])
    assert items["cwd_loss"].item() == pytest.approx(items_of_one["cwd_loss"].item(), rel=1e-4)


def constant(value: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda student, teacher: student.sum() * 0 + value


def test_terms_are_summed_over_levels_weighted_and_meant_over_teachers(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    terms = [FeatureTerm("one", constant(1.0), 0.5), FeatureTerm("two", constant(2.0), 1.0)]
    bench = Bench(net, deepcopy(wide_net), deepcopy(net), terms=terms)
    loss, items = bench.loss(images)
    levels = len(neck_layers(net))
    assert items["one_loss"].item() == pytest.approx(0.5 * levels)
    assert items["two_loss"].item() == pytest.approx(2.0 * levels)
    assert loss[-2:].tolist() == pytest.approx([0.5 * levels * 8, 2.0 * levels * 8])


def test_features_are_the_inputs_of_the_head_in_float32(
    net: nn.Module, wide_net: nn.Module, images: Tensor
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def look(student: Tensor, teacher: Tensor) -> Tensor:
        seen.append((student.detach(), teacher))
        return student.sum() * 0

    teacher = deepcopy(wide_net)
    bench = Bench(net, teacher, terms=[FeatureTerm("look", look, 1.0)])
    with torch.autocast("cpu", torch.bfloat16):
        bench.loss(images)
    assert [tuple(t.shape) for _, t in seen] == [
        (8, probe_widths(teacher, [layer], IMGSZ, CPU)[layer], IMGSZ // stride, IMGSZ // stride)
        for stride, layer in sorted(neck_layers(teacher).items())
    ]
    assert all(student.shape == theirs.shape for student, theirs in seen)
    assert {tensor.dtype for pair in seen for tensor in pair} == {torch.float32}


def test_a_pruned_student_learns_from_its_parent(net: nn.Module, images: Tensor) -> None:
    pruned = pruned_copy(net, 0.4)
    bench = Bench(pruned, net, terms=[TERM])
    _, items = bench.loss(images)
    assert items["cwd_loss"].item() > 0


class Watched(Distillation):
    """Remembers the projectors as they were drawn."""

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        super().prepare(model, device, imgsz)
        self.drawn = deepcopy(self.state_dict())


OPTIMIZERS = ["SGD", "AdamW", "NAdam", "RAdam", "RMSProp", "MuSGD"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_projectors_are_trained(
    optimizer: str, net: nn.Module, wide_net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    distillation = Watched([deepcopy(wide_net)], [TERM])
    train(deepcopy(net), job(optimizer=optimizer), Silent(), "test", [distillation])
    drawn, trained = distillation.drawn["projectors"][0], distillation.state_dict()["projectors"][0]
    assert all(torch.isfinite(value).all() for value in trained.values())
    weights = [name for name in trained if name.endswith("weight")]
    assert len(weights) == len(neck_layers(net))
    # CWD does not see what is constant in a channel: a bias learns nothing
    assert [name for name in weights if torch.equal(trained[name], drawn[name])] == []


def test_equal_widths_need_no_projector(net: nn.Module) -> None:
    distillation = Distillation([deepcopy(net)], [TERM])
    distillation.prepare(net, CPU, IMGSZ)
    assert distillation.parameter_groups(net, 0.1) == []


def test_the_teacher_learns_nothing(
    net: nn.Module, wide_net: nn.Module, job: Callable[..., TrainingJob]
) -> None:
    teacher = deepcopy(wide_net).train().requires_grad_(True)  # as it must not stay
    distillation = Distillation([teacher], [TERM])
    train(deepcopy(net), job(optimizer="AdamW"), Silent(), "test", [distillation])
    before, after = wide_net.state_dict(), teacher.state_dict()
    # weights and BatchNorm statistics alike
    assert [name for name in before if not torch.equal(after[name], before[name])] == []
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_distillation_changes_what_the_student_learns(
    net: nn.Module, wide_net: nn.Module, job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    def kernel(folder: str, terms: list[FeatureTerm]) -> Tensor:
        extensions = [Distillation([deepcopy(wide_net)], terms)] if terms else []
        work = replace(job(), folder=tmp_path / folder)
        training = train(deepcopy(net), work, Silent(), "test", extensions)
        return training.weights["model.15.cv2.conv.weight"]

    plain, weak = kernel("plain", []), kernel("weak", [FeatureTerm("cwd", cwd, 1e-6)])
    strong = kernel("strong", [FeatureTerm("cwd", cwd, 10.0)])
    assert (plain - weak).abs().max() < 1e-3 * (plain - strong).abs().max()
    assert not torch.equal(plain, strong)


def test_projectors_are_put_back_as_they_were(net: nn.Module, wide_net: nn.Module) -> None:
    first, second = (Distillation([deepcopy(wide_net)], [TERM]) for _ in range(2))
    for distillation in (first, second):
        distillation.prepare(net, CPU, IMGSZ)
    second.load_state_dict(deepcopy(first.state_dict()))
    ours, theirs = (d.pupils[0].projectors.state_dict() for d in (first, second))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_hooks_come_off(net: nn.Module, wide_net: nn.Module, images: Tensor) -> None:
    teacher = deepcopy(wide_net)
    bench = Bench(net, teacher, terms=[TERM])
    assert _hooked(net)
    assert _hooked(teacher)
    bench.loss(images)
    bench.distillation.close()
    assert not _hooked(net)
    assert not _hooked(teacher)
    bench.distillation.close()  # twice does no harm


def _hooked(model: nn.Module) -> bool:
    return any(module._forward_hooks for module in model.modules())


def test_taps_leave_the_mode_of_a_model_and_remove_their_hooks(net: nn.Module) -> None:
    layers = list(neck_layers(net).values())
    net.train()
    widths = probe_widths(net, layers, IMGSZ, CPU)
    assert widths.keys() == set(layers)
    assert net.training
    assert not _hooked(net)
    with pytest.raises(RuntimeError):
        probe_widths(net, layers, IMGSZ + 3, CPU)  # no size that the strides divide
    assert net.training
    assert not _hooked(net)


def test_taps_keep_the_last_features_and_forget_them(net: nn.Module, images: Tensor) -> None:
    taps = Taps(net, ["model.0"])
    net(images[:2])
    net(images[:1])
    assert taps.features["model.0"].shape[0] == 1
    taps.close()
    assert taps.features == {}


def test_a_teacher_with_other_strides_is_refused(net: nn.Module) -> None:
    teacher = deepcopy(net)
    teacher.model[-1].stride = torch.tensor([128.0, 256.0, 512.0])
    with pytest.raises(CompressError, match=r"no stride .*\[8, 16, 32\].*\[128, 256, 512\]"):
        Distillation([teacher], [TERM]).prepare(net, CPU, IMGSZ)


def test_shared_strides_are_matched_by_stride_and_not_by_index(net: nn.Module) -> None:
    p6 = build_model(Path("yolov8n-p6.yaml"), NAMES, seed=0)
    distillation = Distillation([p6], [TERM])
    distillation.prepare(net, CPU, IMGSZ)
    ours, theirs = neck_layers(net), neck_layers(p6)
    expected = [(ours[stride], theirs[stride]) for stride in (8, 16, 32)]
    assert distillation.pupils[0].pairs == expected


def test_the_update_of_an_end_to_end_loss_is_passed_on(net: nn.Module) -> None:
    calls: list[int] = []
    base: Any = SimpleNamespace(update=lambda: calls.append(1))
    distillation = Distillation([], [])
    distillation.wrap_criterion(net, base).update()
    assert calls == [1]
    assert not hasattr(distillation.wrap_criterion(net, object()), "update")
