"""Weights, layer names and the device are looked at before the first stage works."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_fakes import NAMES, Desk, recipe

from compress.errors import CompressError, RecipeError
from compress.pipeline import preflight
from compress.pipeline.contract import Artifact
from compress.pipeline.job import Job
from compress.pipeline.links import link_steps
from compress.pipeline.preflight import (
    check_before_work,
    check_what_can_be,
    device_faults,
    leak_faults,
)
from compress.pipeline.weights import weight_faults
from compress.recipe.schema import Recipe

Opener = Callable[..., list[str]]
DATA_NAMES = {0: "square", 1: "disc", 2: "bar"}


@pytest.fixture
def opened(desk: Desk, net_yaml: Path) -> Opener:
    """What is said of the weights of a recipe; all of them are good ones unless given."""
    pytest.importorskip("ultralytics")
    from compress.models.build import build_model
    from compress.models.checkpoint import save_checkpoint

    save_checkpoint(build_model(net_yaml, DATA_NAMES, 0), desk.folder / "good.pt")
    save_checkpoint(build_model(net_yaml, {0: "cell"}, 0), desk.folder / "others.pt")
    more = {0: "bar", 1: "cell", 2: "square", 3: "disc"}
    save_checkpoint(build_model(net_yaml, more, 0), desk.folder / "more.pt")

    def look(of: Recipe, **files: Path | str) -> list[str]:
        named = {f"{name}.pt": desk.folder / file for name, file in files.items()}
        paths = {name: desk.folder / "good.pt" for name in ("n.pt", "s.pt", "far.pt")} | named
        job = desk.job(of)
        data = replace(job.data, names=DATA_NAMES)
        artifacts = {name: Artifact(path, "") for name, path in paths.items()}
        faults = weight_faults(replace(job, data=data, named=artifacts), link_steps(of))
        return str(job.error(faults)).splitlines() if faults else []

    return look


def test_good_weights_are_no_fault(opened: Opener) -> None:
    assert opened(recipe()) == []


@pytest.mark.parametrize(("name", "key"), [("n", "model"), ("s", "teacher")])
def test_weights_that_cannot_be_read_are_told_at_their_key(
    opened: Opener, desk: Desk, name: str, key: str
) -> None:
    (fault,) = opened(recipe(), **{name: "n.pt"})  # a few bytes of text
    assert fault.startswith(f"r.yaml: {key}: {desk.folder / 'n.pt'}: not a readable PyTorch")


def test_every_bad_file_is_told(opened: Opener, desk: Desk) -> None:
    distill = {"teachers": ["teacher", "far.pt"], "losses": [{"kind": "l2"}]}
    of = recipe({"finetune": {"distill": distill}})
    faults = opened(of, n="n.pt", s="s.pt", far="others.pt")
    told = [line for line in faults if line.startswith("r.yaml")]
    assert [line.split(": ")[1] for line in told] == [
        "model",
        "stages[3].distill.teachers[1].model",
        "teacher",
    ]


def test_a_model_without_a_detection_head_is_refused(
    opened: Opener, desk: Desk, net_yaml: Path
) -> None:
    from compress.models.build import build_model
    from compress.models.checkpoint import save_checkpoint

    model = build_model(net_yaml, DATA_NAMES, 0)
    model.model = model.model[:-1]
    save_checkpoint(model, desk.folder / "headless.pt")
    (fault,) = opened(recipe(), n="headless.pt")
    assert "headless.pt: The model's last layer is" in fault


def test_classes_are_compared_only_where_nothing_trains_them(opened: Opener) -> None:
    assert opened(recipe(), n="others.pt", s="others.pt") == []
    taken = {"when": "never", "train": None}
    faults = opened(recipe({"base": taken, "teacher": taken}), n="others.pt", s="others.pt")
    assert faults[0] == ("r.yaml: model: base 'n.pt' predicts other classes than the data have.")
    assert faults[1:3] == ["  it predicts: 0: cell", "  data: 0: square, 1: disc, 2: bar"]
    assert any("teacher: teacher 's.pt' predicts other classes" in line for line in faults)


def taught(**section: Any) -> Recipe:
    """A chain whose finetune has a teacher by its file."""
    distill = {"teachers": ["far.pt"], "losses": [{"kind": "cwd"}], **section}
    return recipe({"finetune": {"distill": distill}}, only=["base", "prune", "finetune"])


@pytest.mark.parametrize(
    "section",
    [
        {"losses": [{"kind": "cwd"}, {"kind": "l2"}]},
        {"soft_targets": {"teacher": 0.5}},
        {"unlabeled": {"images": "extra", "pseudo_labels": {}}},
    ],
    ids=["loss on outputs", "soft targets", "pseudo labels"],
)
def test_a_teacher_whose_scores_are_read_must_know_the_classes_by_name(
    opened: Opener, section: dict[str, Any]
) -> None:
    of = taught(**section)
    assert opened(of) == []
    assert opened(of, far="more.pt") == []  # more classes, in another order
    assert opened(of, far="others.pt")[:3] == [
        "r.yaml: stages[2].distill.teachers[0].model: teacher 'far.pt' lacks 3 of the data's "
        "classes: square, disc, bar.",
        "  it predicts: cell",
        "  data: square, disc, bar",
    ]


def test_an_online_teacher_must_have_the_very_classes(opened: Opener) -> None:
    of = taught(teachers=[{"model": "far.pt", "online": True}])
    assert opened(of) == []
    assert "teachers[0].model: teacher 'far.pt' predicts other" in opened(of, far="more.pt")[0]


def test_features_need_no_classes(opened: Opener) -> None:
    assert opened(taught(), far="others.pt") == []


def test_layers_that_match_nothing_are_told_with_their_line(opened: Opener) -> None:
    of = recipe(
        {
            "prune": {
                "ignore": ["model.0", "model.99", "model.*.cv1"],
                "min_channels": {"model.0": 8, "model.1x": 8},
            },
            "qat": {"float_layers": ["model.0.conv", "modle.*"]},
        }
    )
    first, floor, second = opened(of)
    assert first.startswith("r.yaml: stages[2].ignore[1]: 'model.99' matches no convolution")
    assert "model.0.conv" in first
    assert floor.startswith("r.yaml: stages[2].min_channels.model.1x: 'model.1x' matches no")
    assert second.startswith("r.yaml: stages[4].float_layers[1]: 'modle.*' matches")


def picture(file: Path, shade: int) -> Path:
    pillow = pytest.importorskip("PIL.Image")
    file.parent.mkdir(parents=True, exist_ok=True)
    pillow.new("RGB", (16, 16), (shade, 0, 0)).save(file)
    return file


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_unlabeled_images_must_not_be_measured_on(desk: Desk, split: str) -> None:
    own, extra = desk.folder / "d", desk.folder / "extra"
    picture(extra / "new.png", 1)
    picture(extra / "more" / "renamed.png", 2)
    splits = {name: (picture(own / f"{name}.png", 3),) for name in ("train", "val", "test")}
    splits[split] += (picture(own / "same.png", 2),)
    distill = {"losses": [{"kind": "cwd"}], "unlabeled": {"images": "extra"}}
    job = desk.job(recipe({"finetune": {"distill": distill}}))
    named = {**job.named, "extra": Artifact(extra, "")}
    job = replace(job, data=replace(job.data, splits=splits), named=named)
    faults = leak_faults(job, link_steps(job.recipe), desk.folder / "cache")
    if split == "train":
        assert faults == []
        return
    (fault,) = faults
    assert fault.path == ("stages", 3, "distill", "unlabeled", "images")
    assert fault.message.startswith(
        f"1 of these images are in the {split} split too, such as {extra / 'more/renamed.png'}: "
    )


def test_layers_of_the_users_own_that_cannot_be_run_are_told(desk: Desk) -> None:
    pytest.importorskip("ultralytics")
    file = desk.folder / "my_broken_layers.py"
    file.write_text("import torch\n1 / 0\n")
    of = recipe(only=["base"], model="n.yaml", modules=file.name)
    job = replace(desk.job(of), modules=Artifact(file, ""))
    (fault,) = weight_faults(job, link_steps(of))
    assert fault.path == ("modules",)
    assert fault.message.startswith(f"{file}:2: cannot be imported (ZeroDivisionError")


def test_model_yamls_are_not_opened(desk: Desk) -> None:
    of = recipe({"prune": {"ignore": ["nowhere"]}}, only=["base", "prune"], model="n.yaml")
    assert weight_faults(desk.job(of), link_steps(of)) == []


def test_the_check_is_made_once_before_the_first_work(desk: Desk) -> None:
    desk.run()
    assert desk.checked == [NAMES]
    desk.run()
    assert desk.checked == [NAMES]  # all is cached: nothing is opened, torch not imported


def test_a_failed_check_keeps_everything_from_running(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Desk, job: Job, steps: Any, cache: Path) -> None:
        raise CompressError("bad weights")

    monkeypatch.setattr(Desk, "check", refuse)
    with pytest.raises(CompressError, match="bad weights"):
        desk.run(hook=lambda *_: pytest.fail("a stage worked"))


GPUS = [("0", 0, "no CUDA GPU"), ("cuda", 0, "no CUDA GPU"), ("cuda:1", 1, "numbered 0.")]
GPUS += [("3", 2, "numbered 0 to 1."), ("mps", 0, "no Apple GPU")]


@pytest.mark.parametrize(("device", "count", "words"), GPUS)
def test_a_device_that_is_not_there(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, device: str, count: int, words: str
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    job = desk.job(recipe(only=["base"], model="n.yaml", device=device))
    with pytest.raises(RecipeError) as caught:
        check_before_work(job, link_steps(job.recipe), desk.folder)
    assert str(caught.value).startswith(f"r.yaml: device: no device '{device}': ")
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("device", "count"), [("0", 1), ("cuda", 1), ("cuda:1", 2), ("mps", 0)])
def test_a_device_that_is_there(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, device: str, count: int
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_faults(desk.job(recipe(device=device))) == []


def test_the_cpu_needs_no_torch(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert device_faults(desk.job()) == []


def test_without_torch_validation_says_what_it_left_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    job = desk.job()
    (line,) = check_what_can_be(job, link_steps(job.recipe), desk.folder)
    assert line.startswith("weights not opened (torch, ultralytics not installed: pip install ")
