"""An image that is measured on may not be fitted to, whatever its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.data.leaks import refuse_leaks, same_files
from compress.errors import CompressError


def files(folder: Path, **contents: bytes) -> list[Path]:
    folder.mkdir()
    for name, content in contents.items():
        (folder / f"{name}.png").write_bytes(content)
    return sorted(folder.iterdir())


def test_equal_bytes_are_found_under_other_names(tmp_path: Path) -> None:
    train = files(tmp_path / "train", a=b"one", b=b"two", c=b"three")
    val = files(tmp_path / "val", x=b"TWO", y=b"two", z=b"longer than all")
    assert same_files(train, val) == {train[1]: val[1]}
    assert same_files(val, train) == {val[1]: train[1]}


def test_one_path_in_two_splits_is_found(tmp_path: Path) -> None:
    train = files(tmp_path / "train", a=b"one", b=b"two")
    assert same_files(train, train[1:]) == {train[1]: train[1]}


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_leak_is_refused_with_both_names_and_what_to_do(tmp_path: Path, split: str) -> None:
    train = files(tmp_path / "train", a=b"one", b=b"two")
    other = files(tmp_path / split, y=b"two")
    splits = {"train": train, "val": [], split: other}
    with pytest.raises(CompressError, match="calibration") as error:
        refuse_leaks(train, splits, "calibration")
    assert str(train[1]) in str(error.value)
    assert str(other[0]) in str(error.value)
    assert f"the {split} split" in str(error.value)
    assert "delete it" in str(error.value)


def test_only_the_chosen_images_count(tmp_path: Path) -> None:
    train = files(tmp_path / "train", a=b"one", b=b"two")
    splits = {"train": train, "val": files(tmp_path / "val", y=b"two")}
    refuse_leaks(train[:1], splits, "calibration")


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = files(tmp_path / "train", a=b"one", b=b"four")
    val = files(tmp_path / "val", x=b"three", y=b"ten")
    read: list[Path] = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or whole(path))
    assert same_files(train, val) == {}
    assert sorted(read) == [train[0], val[1]]
