"""The drawn data set: the same bytes every time, whole or not there, and rightly labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data import sample, scene
from compress.data.dataset import check_labels, label_path, load_dataset
from compress.data.sample import COUNTS, draw_sample
from compress.data.shapes import DISTRACTORS, OBJECTS
from compress.errors import CompressError

pytest.importorskip("cv2")

FEW = {"train": 12, "val": 4, "test": 4}
SEEDS = st.integers(0, 2**31)


def content(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_two_folders_hold_the_same_bytes(tmp_path: Path) -> None:
    first, second = (draw_sample(tmp_path / name, FEW) for name in ("a", "deep/b"))
    assert content(first.parent) == content(second.parent)
    other = draw_sample(tmp_path / "c", FEW, seed=1)
    assert content(first.parent) != content(other.parent)


def test_it_is_a_sound_data_set(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    data = load_dataset(draw_sample(tmp_path / "set", FEW))
    check_labels(data)
    assert list(data.names.values()) == list(OBJECTS)
    assert {split: len(files) for split, files in data.splits.items()} == FEW
    for image in data.splits["train"]:
        assert cv2.imread(str(image)).shape == (scene.SIDE, scene.SIDE, 3)
        assert label_path(image).read_text().strip()


def test_the_default_is_small_enough_to_learn_and_large_enough_to_measure() -> None:
    assert dict(COUNTS) == {"train": 320, "val": 96, "test": 96}


def test_splits_share_no_picture(tmp_path: Path) -> None:
    data = load_dataset(draw_sample(tmp_path / "set", FEW))
    pictures = [image.read_bytes() for files in data.splits.values() for image in files]
    assert len(set(pictures)) == sum(FEW.values())


def test_a_second_call_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = draw_sample(tmp_path / "set", FEW)
    monkeypatch.setattr(sample, "draw_scene", None)  # drawing again would fail
    assert draw_sample(tmp_path / "set", FEW) == yaml


def test_an_older_version_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = draw_sample(tmp_path / "set", FEW)
    (yaml.parent / "images/train/0000.jpg").write_bytes(b"old")
    monkeypatch.setattr(sample, "VERSION", sample.VERSION + 1)
    draw_sample(tmp_path / "set", FEW)
    assert (yaml.parent / "images/train/0000.jpg").read_bytes() != b"old"


def test_a_kill_leaves_nothing_half_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(range(5))

    def stop(rng: np.random.Generator) -> object:
        if next(drawn) == 4:
            raise KeyboardInterrupt
        return scene.draw_scene(rng)

    monkeypatch.setattr(sample, "draw_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        draw_sample(tmp_path / "set", FEW)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert draw_sample(tmp_path / "set", FEW).is_file()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CompressError, match="holds other files"):
        draw_sample(tmp_path, FEW)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CompressError, match="cannot write the sample data"):
        draw_sample(tmp_path / "file" / "set", FEW)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_every_box_fits_its_picture(seed: int) -> None:
    pixels, boxes = scene.draw_scene(np.random.default_rng(seed))
    assert pixels.dtype == np.uint8
    assert pixels.std() > 1
    for box in boxes:
        assert 0 <= box.left < box.right <= scene.SIDE
        assert 0 <= box.top < box.bottom <= scene.SIDE
        assert min(box.right - box.left, box.bottom - box.top) >= 4


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(3, 30))
def test_no_shape_hides_an_object(seed: int, shapes: int) -> None:
    rng = np.random.default_rng(seed)
    blank = np.zeros((scene.SIDE, scene.SIDE, 3))
    picture = scene.Scene(blank, np.full((scene.SIDE, scene.SIDE), -1, np.int16))
    looks = [*OBJECTS.values(), *DISTRACTORS]
    for _ in range(shapes):
        kind = int(rng.integers(len(looks)))
        x, y = rng.uniform(40, 120, 2)
        pose = scene.Pose(x, y, rng.uniform(8, 40), rng.uniform(0, 6), 0.9)
        paint = scene.Paint(rng.uniform(0, 255, 3), np.zeros(2), 0.0)
        picture.place(looks[kind], pose, paint, kind if kind < len(OBJECTS) else None)
    for index, area in enumerate(picture.areas):
        assert np.count_nonzero(picture.owner == index) >= scene.MIN_VISIBLE * area


def test_all_classes_and_sizes_occur() -> None:
    boxes = [box for seed in range(60) for box in scene.draw_scene(np.random.default_rng(seed))[1]]
    assert {box.kind for box in boxes} == set(range(len(OBJECTS)))
    widths = [box.right - box.left for box in boxes]
    assert min(widths) < 16
    assert max(widths) > 64
