"""What stages refuse, and which weights a train stage takes as they are."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from slow import slow
from small_nets import NAMES
from torch import nn

from compress.errors import CompressError
from compress.models.build import build_model
from compress.models.checkpoint import class_names, load_checkpoint, save_checkpoint
from compress.models.inspect import detect_head
from compress.pipeline.contract import Artifact, Context
from compress.recipe.schema import FinetuneStage, PruneStage, QatStage, TrainStage
from compress.stages import finetune, prune, qat, train

OTHER_NAMES = {0: "cat", 1: "disc", 2: "dog", 3: "bar"}
ONE_EPOCH = {"epochs": 1, "batch": 8, "lr0": 0.0005}
DISTILL = {"teachers": ["base"], "losses": [{"kind": "bckd"}]}  # features need no classes
MakeContext = Callable[[str], Context]


@pytest.fixture
def fitting(net: nn.Module, tmp_path: Path) -> Artifact:
    save_checkpoint(net, tmp_path / "fitting.pt")
    return Artifact(tmp_path / "fitting.pt", "-")


@pytest.fixture
def foreign(fitting: Artifact, tmp_path: Path) -> Artifact:
    """The same net, made for other classes."""
    save_checkpoint(build_model(fitting.path, OTHER_NAMES, seed=0), tmp_path / "foreign.pt")
    return Artifact(tmp_path / "foreign.pt", "-")


@pytest.fixture
def renamed(net: nn.Module, tmp_path: Path) -> Artifact:
    """As many classes as the data have, in another order."""
    other = deepcopy(net)
    other.names = {0: "disc", 1: "square", 2: "bar"}
    save_checkpoint(other, tmp_path / "renamed.pt")
    return Artifact(tmp_path / "renamed.pt", "-")


def equal(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("role", ["base", "teacher"])
@pytest.mark.parametrize("wrong", ["foreign", "renamed"])
def test_weights_taken_as_they_are_must_know_the_classes(
    role: str, wrong: str, make_context: MakeContext, request: pytest.FixtureRequest
) -> None:
    weights: Artifact = request.getfixturevalue(wrong)
    config = TrainStage(stage="train", role=role, when="never")
    with pytest.raises(CompressError) as caught:
        train.run(config, {"weights": weights}, make_context("train"))
    message = str(caught.value)
    assert message.startswith(f"{role} '{weights.path.name}' predicts other classes")
    assert "1: disc" in message or "0: disc" in message  # what it predicts
    assert "0: square, 1: disc, 2: bar" in message  # what the data have
    assert "when: classes_differ" in message


@pytest.mark.parametrize("wrong", ["foreign"])  # other orders are mapped by name
@pytest.mark.parametrize("kind", [*slow("finetune"), "qat"])
def test_a_teacher_of_other_classes_is_refused_with_both_lists(
    kind: str,
    wrong: str,
    fitting: Artifact,
    make_context: MakeContext,
    request: pytest.FixtureRequest,
) -> None:
    inputs = {"checkpoint": fitting, "teacher.0": request.getfixturevalue(wrong)}
    kinds = {"finetune": (finetune, FinetuneStage), "qat": (qat, QatStage)}
    stage, schema = kinds[kind]
    config, context = schema(stage=kind, train=ONE_EPOCH, distill=DISTILL), make_context(kind)
    with pytest.raises(CompressError, match="teacher 'base' lacks") as caught:
        stage.run(config, inputs, context)
    assert "data: square, disc, bar" in str(caught.value)
    assert "disc" in str(caught.value).splitlines()[1]
    assert list(context.out.iterdir()) == []


def test_a_student_of_other_classes_is_refused(
    foreign: Artifact, make_context: MakeContext
) -> None:
    config = FinetuneStage(stage="finetune", train=ONE_EPOCH)
    with pytest.raises(CompressError, match="the student predicts other classes"):
        finetune.run(config, {"checkpoint": foreign}, make_context("finetune"))


def test_long_class_lists_are_cut(
    make_context: MakeContext, net_yaml: Path, tmp_path: Path
) -> None:
    many = build_model(net_yaml, {index: f"kind{index}" for index in range(80)}, seed=0)
    save_checkpoint(many, tmp_path / "many.pt")
    config = TrainStage(stage="train", when="never")
    with pytest.raises(CompressError, match=r"7: kind7, \.\.\. \(80 in all\)\n"):
        train.run(config, {"weights": Artifact(tmp_path / "many.pt", "-")}, make_context("train"))


def test_classes_differ_takes_weights_that_fit(
    fitting: Artifact, make_context: MakeContext
) -> None:
    context = make_context("train")
    config = TrainStage(stage="train", when="classes_differ", train=ONE_EPOCH)
    result = train.run(config, {"weights": fitting}, context)
    assert equal(load_checkpoint(context.out / "model.pt"), load_checkpoint(fitting.path))
    assert "curves" not in result.metrics


def test_classes_differ_trains_weights_that_do_not(
    foreign: Artifact, make_context: MakeContext
) -> None:
    context = make_context("train")
    config = TrainStage(stage="train", when="classes_differ", train=ONE_EPOCH)
    result = train.run(config, {"weights": foreign}, context)
    model = load_checkpoint(context.out / "model.pt")
    assert class_names(model) == NAMES
    assert detect_head(model).nc == 3
    assert len(result.metrics["curves"]["train/cls_loss"]) == 1


def test_always_trains_weights_that_fit(fitting: Artifact, make_context: MakeContext) -> None:
    context = make_context("train")
    config = TrainStage(stage="train", train=ONE_EPOCH)
    train.run(config, {"weights": fitting}, context)
    assert not equal(load_checkpoint(context.out / "model.pt"), load_checkpoint(fitting.path))


def test_a_model_yaml_is_trained_from_random_weights(
    net_yaml: Path, make_context: MakeContext
) -> None:
    context = make_context("train")
    config = TrainStage(stage="train", train=ONE_EPOCH)
    train.run(config, {"weights": Artifact(net_yaml, "-")}, context)
    model, fresh = load_checkpoint(context.out / "model.pt"), build_model(net_yaml, NAMES, seed=0)
    assert class_names(model) == NAMES
    assert not equal(model, fresh)
    # one short epoch leaves most of what the seed drew
    ours, theirs = (m.model[0].conv.weight for m in (model, fresh))
    assert (ours - theirs).abs().max() < 0.1


def test_a_model_yaml_may_be_measured_untrained(net_yaml: Path, make_context: MakeContext) -> None:
    context = make_context("train")
    config = TrainStage(stage="train", when="never")
    train.run(config, {"weights": Artifact(net_yaml, "-")}, context)
    assert equal(load_checkpoint(context.out / "model.pt"), build_model(net_yaml, NAMES, seed=0))


def test_an_unreachable_pruning_target_leaves_nothing(
    fitting: Artifact, make_context: MakeContext
) -> None:
    context = make_context("prune")
    config = PruneStage(stage="prune", target={"macs": 0.01}, align=8, max_pruned=0.3)
    with pytest.raises(CompressError, match=r"1.0% of the MACs cannot be reached.*% remain"):
        prune.run(config, {"checkpoint": fitting}, context)
    assert list(context.out.iterdir()) == []
