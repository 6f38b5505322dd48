"""The fingerprint follows the content of a data set and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from data_sets import YAML, add_image, make_data

from compress.data.dataset import load_dataset
from compress.data.fingerprint import fingerprint


def fresh(yaml: Path) -> str:
    """The fingerprint without any memory of an earlier call."""
    return fingerprint(load_dataset(yaml), yaml.with_name("no memo"))


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte of an image": lambda root: flip_a_byte(root / "images/train/1.jpg"),
    "a byte of a label": lambda root: flip_a_byte(root / "labels/val/1.txt"),
    "a label less": lambda root: (root / "labels/train/1.txt").unlink(),
    "an empty label for none": lambda root: (root / "labels/train/bare.txt").touch(),
    "an image more": lambda root: add_image(root, "images/val/9.jpg"),
    "another file name": lambda root: (root / "images/val/2.jpg").rename(root / "images/val/x.jpg"),
    "another class name": lambda root: (root / "data.yaml").write_text(YAML.replace("dog", "cow")),
    "train and val swapped": lambda root: (root / "data.yaml").write_text(
        "val: images/train\ntrain: images/val\nnames: [cat, dog]\n"
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_of_content_shows(tmp_path: Path, change: Callable[[Path], object]) -> None:
    yaml = make_data(tmp_path)
    add_image(tmp_path, "images/train/bare.jpg")
    memo = tmp_path / "memo.json"
    before = fingerprint(load_dataset(yaml), memo)
    change(tmp_path)
    after = fingerprint(load_dataset(yaml), memo)
    assert after != before
    assert after == fresh(yaml)


def test_place_time_and_yaml_style_do_not_show(tmp_path: Path) -> None:
    yaml = make_data(tmp_path / "here")
    before = fresh(yaml)
    moved = shutil.copytree(tmp_path / "here", tmp_path / "far" / "there")
    os.utime(moved / "images/train/0.jpg", (1, 1))
    (moved / "data.yaml").write_text(f"# moved\npath: {moved}\n{YAML}nc: 2\n")
    assert fresh(moved / "data.yaml") == before


def test_the_memo_spares_reading_again(tmp_path: Path) -> None:
    yaml, memo = make_data(tmp_path), tmp_path / "cache" / "memo.json"
    before = fingerprint(load_dataset(yaml), memo)
    image = tmp_path / "images/train/0.jpg"
    status = image.stat()
    flip_a_byte(image)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))  # only reading could tell
    assert fingerprint(load_dataset(yaml), memo) == before
    assert fresh(yaml) != before
    assert [file.name for file in memo.parent.iterdir()] == ["memo.json"]


def test_one_memo_serves_several_data_sets(tmp_path: Path) -> None:
    memo = tmp_path / "memo.json"
    first, second = make_data(tmp_path / "a"), make_data(tmp_path / "b", images=2)
    expected = [fingerprint(load_dataset(yaml), memo) for yaml in (first, second)]
    stamp = memo.stat().st_mtime_ns
    assert [fingerprint(load_dataset(yaml), memo) for yaml in (first, second)] == expected
    assert memo.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 1}', '{"a": [1, 2]}', "\xff"])
def test_a_damaged_memo_costs_only_time(tmp_path: Path, damage: str) -> None:
    yaml, memo = make_data(tmp_path), tmp_path / "memo.json"
    before = fingerprint(load_dataset(yaml), memo)
    memo.write_text(damage, encoding="latin-1")
    assert fingerprint(load_dataset(yaml), memo) == before


def test_a_memo_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    yaml = make_data(tmp_path)
    (tmp_path / "file").touch()
    assert fingerprint(load_dataset(yaml), tmp_path / "file" / "memo.json") == fresh(yaml)
