"""Checkpoints of the old YOLOv5 repository: tensors taken over, nothing in them run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from compress.data.dataset import DataSet
from compress.errors import CompressError, RecipeError
from compress.models.build import build_model
from compress.models.checkpoint import foreign_names, load_checkpoint, save_checkpoint
from compress.models.inspect import head_facts
from compress.models.legacy import is_legacy, read_legacy
from compress.pipeline.contract import Artifact
from compress.pipeline.job import Job
from compress.pipeline.links import link_steps
from compress.pipeline.weights import weight_faults
from compress.recipe.schema import Recipe

NAMES = {0: "square", 1: "disc", 2: "bar"}
_RENAMED = {"Conv", "C3", "SPPF", "Concat", "Bottleneck"}  # classes that both have


class Call:
    """Unpickled, it calls ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@contextmanager
def old_repository() -> Iterator[dict[str, type]]:
    """Classes pickled as of ``models.yolo`` and ``models.common``; the modules are gone after."""
    modules = {name: ModuleType(name) for name in ("models", "models.yolo", "models.common")}
    classes: dict[str, type] = {}
    for name in ("DetectionModel", "Detect", *_RENAMED):
        home = "models.yolo" if name.startswith("Detect") else "models.common"
        classes[name] = type(name, (nn.Module,), {"__module__": home})
        setattr(modules[home], name, classes[name])
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name in modules:
            del sys.modules[name]


def in_old_classes(net: nn.Module, classes: dict[str, type]) -> nn.Module:
    """``net`` with its modules, one by one, made of the old repository's classes."""
    name = "DetectionModel" if hasattr(net, "yaml") else type(net).__name__
    if name not in classes:
        copy = nn.Module.__new__(type(net))
    else:
        copy = classes[name].__new__(classes[name])
    copy.__dict__ |= {key: value for key, value in vars(net).items() if key != "criterion"}
    copy._modules = {
        key: in_old_classes(child, classes) for key, child in net._modules.items() if child
    }
    return copy


def anchors_in_place_of_head(net: nn.Module, classes: dict[str, type]) -> None:
    """The head as it was: one convolution a level, and anchors."""
    head = classes["Detect"]()
    head.register_buffer("anchors", torch.ones(3, 3, 2))
    head.m = nn.ModuleList(nn.Conv2d(width, 24, 1) for width in (64, 128, 256))
    net.model._modules[str(len(net.model) - 1)] = head


def write_legacy(
    file: Path,
    yaml: str = "yolov5n.yaml",
    edit: Callable[[nn.Module], None] = lambda net: None,
    **more: Any,
) -> nn.Module:
    """A half-precision legacy checkpoint; gives the net whose backbone and neck are in it."""
    net = build_model(Path(yaml), {0: "old"}, 7)
    edit(net)
    with old_repository() as classes:
        old = in_old_classes(net, classes).half()
        anchors_in_place_of_head(old, classes)
        content = {"epoch": -1, "model": old, "ema": None, "anchors": torch.ones(2), **more}
        torch.save(content, file)
    return net


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    file = tmp_path_factory.mktemp("legacy") / "yolov5n.pt"
    return file, write_legacy(file)


def test_its_kind_is_told_without_loading(legacy: tuple[Path, nn.Module], tmp_path: Path) -> None:
    file, net = legacy
    save_checkpoint(net, tmp_path / "stock.pt")
    assert is_legacy(foreign_names(file))
    assert not is_legacy(foreign_names(tmp_path / "stock.pt"))


def test_backbone_and_neck_are_taken_over_and_the_head_is_new(
    legacy: tuple[Path, nn.Module],
) -> None:
    file, source = legacy
    model, fresh = (build_model(Path(at), NAMES, 0) for at in (file, "yolov5n.yaml"))
    ours, theirs, drawn = (net.state_dict() for net in (model, source, fresh))
    body = [name for name in ours if not name.startswith("model.24.")]
    assert len(body) > 200
    assert all(torch.equal(ours[name], theirs[name].half().to(ours[name])) for name in body)
    assert not torch.equal(ours["model.0.conv.weight"], drawn["model.0.conv.weight"])
    head = [name for name in ours if name.startswith("model.24.")]
    assert all(torch.equal(ours[name], drawn[name]) for name in head)
    assert model.names == NAMES
    assert head_facts(model).task == "detect"
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_the_average_is_preferred(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    average = build_model(Path("yolov5n.yaml"), {0: "old"}, 8)
    with old_repository() as classes:
        ema = in_old_classes(average, classes)
        content = {"model": in_old_classes(build_model(Path("yolov5n.yaml"), {0: "a"}, 9), classes)}
        torch.save({**content, "ema": ema}, file)
    taken = read_legacy(file).tensors["model.0.conv.weight"]
    assert torch.equal(taken, average.state_dict()["model.0.conv.weight"])


def test_it_cannot_be_used_as_it_is(legacy: tuple[Path, nn.Module]) -> None:
    with pytest.raises(CompressError) as caught:
        load_checkpoint(legacy[0])
    message = str(caught.value)
    assert message.startswith(f"{legacy[0]}: a checkpoint of the old YOLOv5 repository")
    for words in ("anchors", "`stage: train`", "backbone and neck", "yolov5su.pt"):
        assert words in message


@pytest.mark.parametrize("when", ["always", "never", "classes_differ"])
def test_a_recipe_that_trains_it_passes_the_check_before_work(
    when: str, legacy: tuple[Path, nn.Module], dataset: DataSet
) -> None:
    train = None if when == "never" else {"epochs": 1}
    stage = {"stage": "train", "when": when, "train": train}
    values = {"version": 1, "model": "old.pt", "data": "d.yaml", "stages": [stage]}
    of = Recipe.model_validate(values)
    named = {"old.pt": Artifact(legacy[0], "")}
    error = partial(RecipeError, "r.yaml")
    job = Job(of, "r", legacy[0], (), dataset, "", named, error)  # type: ignore[arg-type]
    faults = weight_faults(job, link_steps(of))
    if when == "always":
        assert faults == []
    else:
        (fault,) = faults
        assert fault.path == ("model",)
        assert "a `stage: train` that always trains" in fault.message


def test_nothing_that_it_names_is_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "bad.pt", tmp_path / "it-ran"
    command = Call(os.system, f"touch {trace}")
    net = write_legacy(
        file, opt=command, hyp=[command], edit=lambda net: setattr(net, "x", command)
    )
    model = build_model(file, NAMES, 0)
    assert not trace.exists()
    with pytest.raises(CompressError, match="old YOLOv5 repository"):
        load_checkpoint(file)
    assert not trace.exists()
    weight = net.state_dict()["model.0.conv.weight"]
    assert torch.equal(model.state_dict()["model.0.conv.weight"], weight.half().float())
    with old_repository():
        torch.load(file, weights_only=False)
    assert trace.exists()  # so the file would have run it


def test_a_command_in_place_of_a_tensor_is_not_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "bad.pt", tmp_path / "it-ran"

    def poison(net: nn.Module) -> None:
        net.model[0].conv.weight = None
        net.model[0].conv._parameters["weight"] = Call(os.system, f"touch {trace}")

    net = build_model(Path("yolov5n.yaml"), {0: "old"}, 7)
    with old_repository() as classes:
        old = in_old_classes(net, classes)
        poison(old)
        torch.save({"model": old}, file)
    with pytest.raises(CompressError, match="not those of YOLOv5"):
        build_model(file, NAMES, 0)
    assert not trace.exists()


def _stem_of_a_focus_layer(net: nn.Module) -> None:
    net.model[0].conv = nn.Conv2d(12, 16, 3)


def _wider_neck(net: nn.Module) -> None:
    net.model[10].conv = nn.Conv2d(256, 120, 1, bias=False)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_stem_of_a_focus_layer, "not those of YOLOv5 n, s, m, l or x"),
        (_wider_neck, r"like its net 'n', but for 1 of \d+ tensors, such as model.10.conv.weight"),
    ],
)
def test_another_architecture_is_named(
    edit: Callable[[nn.Module], None], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "other.pt"
    write_legacy(file, edit=edit)
    with pytest.raises(CompressError, match=words) as caught:
        build_model(file, NAMES, 0)
    assert "yolov5su.pt" in str(caught.value)


def test_a_damaged_one_is_named(legacy: tuple[Path, nn.Module], tmp_path: Path) -> None:
    file = tmp_path / "cut.pt"
    with old_repository() as classes:
        torch.save({"model": Call(classes["Detect"], 1), "ema": 3}, file)
    with pytest.raises(CompressError, match="not those of YOLOv5"):
        build_model(file, NAMES, 0)
    good = legacy[0].read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(CompressError, match="not a readable PyTorch checkpoint"):
        build_model(file, NAMES, 0)
