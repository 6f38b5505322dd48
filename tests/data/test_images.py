"""Images that nothing can open are found before anything is trained on the others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from data_sets import make_data

from compress.data import images as images_module
from compress.data.dataset import DataSet, load_dataset
from compress.data.images import check_images, image_fault
from compress.errors import CompressError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def pictures(tmp_path: Path) -> DataSet:
    """Three real pictures a split."""
    dataset = load_dataset(make_data(tmp_path))
    for split in dataset.splits.values():
        for number, file in enumerate(split):
            Image.new("RGB", (64, 48), (number, 90, 9)).save(file)
    return dataset


def faults(dataset: DataSet, memo: Path) -> str:
    with pytest.raises(CompressError) as caught:
        check_images(dataset, memo)
    return str(caught.value)


def test_sound_images_are_no_fault(pictures: DataSet, tmp_path: Path) -> None:
    check_images(pictures, tmp_path / "memo.json")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".JPEG"])
def test_every_usual_format_is_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    Image.new("RGB", (20, 10)).save(file)
    assert image_fault(file) == ""


def cut(file: Path) -> None:
    Image.effect_noise((64, 64), 90).convert("RGB").save(file)
    file.write_bytes(file.read_bytes()[:-200])


DAMAGE = {
    "text": (lambda file: file.write_text("hello"), "not an image"),
    "nothing": (lambda file: file.write_bytes(b""), "not an image"),
    "cut off": (cut, "damaged: "),
    "tiny": (lambda file: Image.new("RGB", (4, 40)).save(file), "4 x 40 pixels; the least side"),
}


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_with_the_path(
    pictures: DataSet, tmp_path: Path, damage: str, kind: str
) -> None:
    spoil, words = DAMAGE[damage]
    file = pictures.splits["train"][1].with_suffix(f".{kind}")
    spoil(file)
    dataset = DataSet(pictures.yaml, pictures.names, {**pictures.splits, "train": (file,)})
    message = faults(dataset, tmp_path / "memo.json")
    assert f"{file}: {words}" in message
    assert "1 unreadable images" in message


def test_all_are_counted_and_the_first_are_shown(pictures: DataSet, tmp_path: Path) -> None:
    files = [tmp_path / f"{number:02}.jpg" for number in range(14)]
    for file in files:
        file.write_text("x")
    message = faults(DataSet(pictures.yaml, {0: "a"}, {"val": tuple(files)}), tmp_path / "memo")
    assert "14 unreadable images" in message
    assert str(files[9]) in message
    assert str(files[10]) not in message
    assert "and 4 more" in message


def test_bytes_behind_the_end_of_a_picture_are_no_fault(pictures: DataSet, tmp_path: Path) -> None:
    file = pictures.splits["val"][0]
    file.write_bytes(file.read_bytes() + b"\0\0")
    check_images(pictures, tmp_path / "memo.json")


def test_only_new_images_are_opened_again(
    pictures: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo, opened = tmp_path / "memo.json", []
    look = image_fault

    def count(image: Path) -> str:
        opened.append(image)
        return look(image)

    monkeypatch.setattr(images_module, "image_fault", count)
    check_images(pictures, memo)
    assert len(opened) == 6
    check_images(pictures, memo)
    assert len(opened) == 6
    spoilt = pictures.splits["train"][2]
    spoilt.write_text("x")
    os.utime(spoilt, (time.time() + 5, time.time() + 5))
    for _ in range(2):  # a fault is not remembered as sound
        assert str(spoilt) in faults(pictures, memo)
    assert set(opened[6:]) == {spoilt}
