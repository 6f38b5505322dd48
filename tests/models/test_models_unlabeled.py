"""Unlabeled images in a training: which ones come, how, and that a killed run goes on exactly."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from killed_training import ARGUMENTS, BATCHES, Killed, KilledAt, killed
from slow import slow
from small_nets import IMGSZ, Silent
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.utils.torch_utils import init_seeds

from compress.data.dataset import list_images
from compress.errors import CompressError
from compress.models.raw_outputs import first_images, raw_outputs
from compress.models.trainer import Training, TrainingExtension, TrainingJob, TrainingRun, train
from compress.models.unlabeled import LABELLED, UnlabeledImages, fit

COUNT = 10
_STILL = {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "translate": 0, "scale": 0, "fliplr": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of one grey each, 20, 40, 60, ..., of different shapes, in two folders."""
    root = tmp_path / "images"
    for number in range(COUNT):
        shape = (IMGSZ, IMGSZ, 3) if number % 2 else (48, 80, 3)
        path = root / ("far" if number > 6 else ".") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full(shape, 20 * (number + 1), np.uint8))
    return root


def run_of(epochs: int = 3, **arguments: Any) -> TrainingRun:
    given = {"imgsz": IMGSZ, "batch": 4, "workers": 0, "close_mosaic": 1, **_STILL, **arguments}
    settings = get_cfg(overrides=given)
    plain = epochs - settings.close_mosaic
    batch = settings.batch
    return TrainingRun(
        epochs, 2, plain, torch.device("cpu"), nn.Module, settings, asked_batch=batch
    )


def begun(
    images: Path, run: TrainingRun, batch: int | None = 3, seed: int = 0, workers: int = 0
) -> UnlabeledImages:
    extension = UnlabeledImages(images, batch, seed, workers)
    extension.begin(run)
    return extension


def start(extension: UnlabeledImages, epoch: int, seed: int = 0) -> None:
    """As the trainer does."""
    init_seeds(seed * 100_003 + epoch + 1)
    extension.start_epoch(epoch)


def labelled(count: int = 4, height: int = IMGSZ, width: int = IMGSZ) -> dict[str, Any]:
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, height, width), generator=numbers).to(torch.uint8)
    return {"img": images, "cls": torch.zeros(5, 1), "im_file": ["a"] * count}


def added(extension: UnlabeledImages, batches: int) -> Tensor:
    """The unlabeled images of some batches."""
    return torch.cat([extension.extend_batch(labelled(1))["img"][1:] for _ in range(batches)])


def greys(images: Tensor) -> list[int]:
    """What stands in the middle of each image."""
    middle = images.shape[-1] // 2
    return [int(value) for value in images[:, 0, middle, middle]]


def test_images_are_appended_and_nothing_else_changes(folder: Path) -> None:
    extension = begun(folder, run_of())
    start(extension, 0)
    batch = labelled()
    longer = extension.extend_batch(batch)
    assert longer["img"].shape == (7, 3, IMGSZ, IMGSZ)
    assert longer["img"].dtype == torch.uint8
    assert torch.equal(longer["img"][:4], batch["img"])
    assert longer[LABELLED] == 4
    assert longer["cls"] is batch["cls"]
    assert longer["im_file"] is batch["im_file"]
    assert batch["img"].shape[0] == 4


def test_by_default_as_many_as_the_training_takes(folder: Path) -> None:
    extension = begun(folder, run_of(batch=6), batch=None)
    start(extension, 0)
    assert extension.extend_batch(labelled(2))["img"].shape[0] == 2 + 6


@pytest.mark.parametrize(("own", "left"), [(None, 3), (4, 2), (1, 1)])
def test_fewer_are_added_where_a_batch_did_not_fit_into_memory(
    own: int | None, left: int, folder: Path
) -> None:
    """ultralytics halves the batch and begins the first epoch anew."""
    run = run_of(batch=6)
    extension = begun(folder, run, batch=own)
    start(extension, 0)
    assert extension.extend_batch(labelled(6))["img"].shape[0] == 6 + (own or 6)
    run.arguments.batch = 3
    start(extension, 0)
    assert extension.extend_batch(labelled(3))["img"].shape[0] == 3 + left


def test_every_image_comes_once_a_pass_and_batches_are_always_full(folder: Path) -> None:
    extension = begun(folder, run_of(mosaic=0.0), batch=4)
    start(extension, 2)
    found = greys(added(extension, 5))
    everything = [20 * (number + 1) for number in range(COUNT)]
    assert sorted(found[:COUNT]) == everything
    assert sorted(found[COUNT:]) == everything
    assert found[:COUNT] != found[COUNT:]
    assert found[:COUNT] != everything


def test_fewer_images_than_a_batch_are_repeated(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), np.full((64, 64, 3), 99, np.uint8))
    extension = begun(tmp_path, run_of(), batch=3)
    start(extension, 0)
    assert added(extension, 2).shape[0] == 6


def shades(images: Tensor) -> int:
    """The largest number of greys in one image, without the padding's and blends at borders."""
    counts = [image[0].unique(return_counts=True) for image in images]
    least = images.shape[-1] ** 2 // 20
    return max(len(set(grey[many > least].tolist()) - {114}) for grey, many in counts)


@pytest.mark.parametrize("workers", [0, 2])
def test_mosaic_ends_with_that_of_the_labelled_images(folder: Path, workers: int) -> None:
    extension = begun(folder, run_of(workers=workers), workers=workers)
    start(extension, 0)
    assert shades(added(extension, 8)) > 1
    start(extension, 1)
    assert shades(added(extension, 8)) > 1
    start(extension, 2)
    assert shades(added(extension, 8)) == 1
    extension.close()


def test_rectangular_batches_have_no_mosaic(folder: Path) -> None:
    extension = begun(folder, run_of(rect=True))
    start(extension, 0)
    assert shades(added(extension, 8)) == 1


def test_other_mixtures_end_at_the_same_epoch(folder: Path) -> None:
    extension = begun(folder, run_of(mosaic=0.0, mixup=1.0))
    start(extension, 1)
    middles = set(greys(added(extension, 8)))
    assert middles - {20 * (number + 1) for number in range(COUNT)}
    start(extension, 2)
    assert set(greys(added(extension, 8))) <= {20 * (number + 1) for number in range(COUNT)}


def test_an_epoch_depends_on_seed_and_epoch_alone(folder: Path) -> None:
    moved = {"translate": 0.2, "scale": 0.5, "hsv_v": 0.4, "mixup": 0.5, "cutmix": 0.3}
    straight = begun(folder, run_of(**moved))
    start(straight, 0)
    first = added(straight, 3)
    state = straight.state_dict()
    start(straight, 1)
    second = added(straight, 3)

    resumed = begun(folder, run_of(**moved))
    resumed.load_state_dict(state)
    start(resumed, 1)
    assert torch.equal(added(resumed, 3), second)
    assert not torch.equal(first, second)
    other = begun(folder, run_of(**moved), seed=1)
    start(other, 0, seed=1)
    assert not torch.equal(added(other, 3), first)


def test_the_state_can_be_saved_safely(folder: Path, tmp_path: Path) -> None:
    extension = begun(folder, run_of())
    start(extension, 0)
    added(extension, 2)
    torch.save(extension.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert len(state["mosaic_buffer"]) >= 6


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_what_lies_beside_the_images_is_neither_read_nor_touched(folder: Path) -> None:
    labels = folder.parent / "labels"
    labels.mkdir()
    (labels / "0.txt").write_text("no label at all")
    np.save(folder / "1.npy", np.zeros((7, 7)))
    (folder / "2.npy").write_bytes(b"rubbish")
    before = contents(folder.parent)
    extension = begun(folder, run_of(cache="disk", mosaic=0.0))
    start(extension, 0)
    assert len(set(greys(added(extension, 4)))) == COUNT
    assert contents(folder.parent) == before


def test_a_broken_image_is_left_out(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"no image")
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:40])
    extension = begun(folder, run_of(mosaic=0.0))
    start(extension, 2)
    with pytest.warns(UserWarning, match=r"3\.png is left out") as told:
        found = greys(added(extension, 10))
    assert not {80, 100} & set(found)
    assert set(found) == {20 * (number + 1) for number in range(COUNT)} - {80, 100}
    assert len(told) == 2  # each is named once


def test_nothing_but_broken_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    extension = begun(tmp_path, run_of())
    start(extension, 0)
    with pytest.raises(CompressError, match="none of 1 can be read"):
        added(extension, 1)


def test_a_list_names_images_from_its_own_folder(folder: Path) -> None:
    listing = folder.parent / "some.txt"
    listing.write_text("images/far/7.png\n./images/1.png\n\nimages/notes.md\n")
    assert [path.name for path in list_images(listing)] == ["1.png", "7.png"]
    extension = begun(listing, run_of(mosaic=0.0))
    start(extension, 2)
    assert set(greys(added(extension, 3))) == {40, 160}


@pytest.mark.parametrize("place", ["nothing", "empty", "empty.txt", "image.png"])
def test_no_images_are_an_error_at_once(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(CompressError, match=place):
        UnlabeledImages(tmp_path / place, None, 0, 0)


def test_images_fit_the_labelled_batch(folder: Path) -> None:
    extension = begun(folder, run_of(rect=True))
    start(extension, 0)
    longer = extension.extend_batch(labelled(2, height=32, width=96))
    assert longer["img"].shape == (5, 3, 32, 96)
    borders = torch.cat([longer["img"][2:, ..., :32], longer["img"][2:, ..., 64:]])
    assert (borders == 114).all()
    assert (longer["img"][2:, ..., 32:64] != 114).any()


def test_fitting_by_hand() -> None:
    images = torch.full((1, 3, 4, 8), 200, dtype=torch.uint8)
    assert fit(images, 4, 8) is images
    fitted = fit(images, 4, 4)
    assert fitted.dtype == torch.uint8
    assert fitted[0, 0].tolist() == [[114] * 4, [200] * 4, [200] * 4, [114] * 4]
    assert (fit(images, 8, 16) == 200).all()


class Watch(TrainingExtension):
    """Trains on the labels of the first images and on the scores of the others."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        def loss(preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            count = batch[LABELLED]
            self.seen.append((count, batch["img"].shape[0] - count))
            value, items = criterion(first_images(preds, count), batch)
            scores = raw_outputs(model, preds).scores[count:]
            extra = scores.sigmoid().mean()
            items = {**items, "score_loss": extra.detach()}
            return torch.cat([value, extra[None] * len(batch["img"])]), items

        return loss

    def loss_names(self) -> list[str]:
        return ["score_loss"]

    def keeps_last(self) -> bool:
        return True  # whichever epoch was the best


@pytest.fixture(scope="module")
def extra_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("extra")
    numbers = np.random.default_rng(1)
    for number in range(7):
        cv2.imwrite(str(root / f"{number}.png"), numbers.integers(0, 256, (60, 90, 3)))
    return root


def trained(
    net: nn.Module, data: Path, extra: Path, folder: Path, progress: Any, **arguments: Any
) -> tuple[Training, Watch]:
    job = TrainingJob(data, 16, IMGSZ, 0, "cpu", 2, folder, {**ARGUMENTS, **arguments})
    watch = Watch()
    extensions = [UnlabeledImages(extra, 5, 0, 2), watch]
    return train(deepcopy(net), job, progress, "test", extensions), watch


@pytest.fixture(scope="module")
def straight(
    _settled: nn.Module,
    data_yaml: Path,
    extra_images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Training, Watch]:
    folder = tmp_path_factory.mktemp("straight")
    return trained(_settled, data_yaml, extra_images, folder, Silent())


def test_a_training_sees_the_unlabeled_images(straight: tuple[Training, Watch]) -> None:
    training, watch = straight
    assert watch.seen == [(8, 5)] * (BATCHES * ARGUMENTS["epochs"])
    scores = training.curves["train/score_loss"]
    assert scores[0] > scores[-1] > 0  # it learned what only they teach


@pytest.mark.parametrize("batch", [*slow(BATCHES + 1), 2 * BATCHES + 1])
def test_an_interrupted_training_ends_where_a_straight_one_does(
    batch: int,
    straight: tuple[Training, Watch],
    net: nn.Module,
    data_yaml: Path,
    extra_images: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(Killed):
        trained(net, data_yaml, extra_images, tmp_path, KilledAt(batch, killed))
    resumed, _ = trained(net, data_yaml, extra_images, tmp_path, Silent())
    weights = straight[0].weights
    assert [k for k in weights if not torch.equal(weights[k], resumed.weights[k])] == []
    assert resumed.curves == straight[0].curves


def test_all_images_take_part_in_changing_sizes(
    net: nn.Module, data_yaml: Path, extra_images: Path, tmp_path: Path
) -> None:
    sizes = {"multi_scale": 0.5, "rect": True, "epochs": 1}
    _, watch = trained(net, data_yaml, extra_images, tmp_path, Silent(), **sizes)
    assert watch.seen == [(8, 5)] * BATCHES
