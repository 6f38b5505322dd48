"""Which images a data yaml names, and what is said when it names none."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_sets import YAML, add_image, make_data
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.dataset import label_path, load_dataset
from compress.errors import CompressError


def names(files: tuple[Path, ...]) -> list[str]:
    return [file.name for file in files]


def test_folders_are_read_in_sorted_order(tmp_path: Path) -> None:
    data = load_dataset(make_data(tmp_path))
    assert data.names == {0: "cat", 1: "dog"}
    assert names(data.splits["train"]) == ["0.jpg", "1.jpg", "2.jpg"]
    assert set(data.splits) == {"train", "val"}
    assert all(file.is_absolute() and file.is_file() for file in data.splits["val"])


def test_subfolders_count_hidden_files_and_other_files_do_not(tmp_path: Path) -> None:
    yaml = make_data(tmp_path, images=1)
    for name in ("deep/er/a.PNG", "._a.jpg", ".cache/b.jpg", "notes.txt"):
        add_image(tmp_path, f"images/train/{name}")
    assert names(load_dataset(yaml).splits["train"]) == ["0.jpg", "a.PNG"]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    yaml = make_data(tmp_path / "set", images=1)
    add_image(tmp_path, "elsewhere/far.jpg")
    (tmp_path / "set/images/train/linked").symlink_to(tmp_path / "elsewhere")
    assert names(load_dataset(yaml).splits["train"]) == ["0.jpg", "far.jpg"]


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("path: set\n" + YAML, "set"),
        ("path: ../set\n" + YAML, "../set"),
        ("path: .\n" + YAML, "."),
        (YAML.replace("images/train", "../images/train"), "."),  # exports of Roboflow
        (YAML.replace("val:", "validation:"), "."),
        (YAML.replace("[cat, dog]", "{0: cat, 1: dog}"), "."),
        (YAML.replace("[cat, dog]", "{1: dog, 0: cat}\nnc: 2"), "."),
        (YAML.replace("images/train", "[images/train]"), "."),
    ],
)
def test_ways_to_say_the_same(tmp_path: Path, text: str, folder: str) -> None:
    home = tmp_path / "home"
    make_data(home / folder)
    (home / "data.yaml").write_text(text)
    data = load_dataset(home / "data.yaml")
    assert data.names == {0: "cat", 1: "dog"}
    assert [len(data.splits[split]) for split in ("train", "val")] == [3, 3]
    assert data.splits["train"][0] == (home / folder / "images/train/0.jpg").resolve()


def test_several_folders_and_lists_add_up(tmp_path: Path) -> None:
    yaml = make_data(tmp_path, YAML.replace("images/train", "[images/train, more.txt]"))
    other = add_image(tmp_path / "elsewhere", "images/z.jpg", "")
    add_image(tmp_path, "images/extra/y.jpg")
    (tmp_path / "more.txt").write_text(f"./images/extra/y.jpg\n\n{other}\nimages/extra/y.jpg\n")
    found = load_dataset(yaml).splits["train"]
    assert sorted(names(found)) == ["0.jpg", "1.jpg", "2.jpg", "y.jpg", "y.jpg", "z.jpg"]


def test_a_path_from_the_root_needs_no_folder_of_the_yaml(tmp_path: Path) -> None:
    make_data(tmp_path / "set")
    yaml = tmp_path / "data.yaml"
    yaml.write_text(f"path: {tmp_path / 'set'}\n{YAML}")
    assert len(load_dataset(yaml).splits["val"]) == 3


def test_the_test_split_is_read_where_there_is_one(tmp_path: Path) -> None:
    add_image(tmp_path, "images/test/t.jpg")
    yaml = make_data(tmp_path, YAML + "test: images/test\n")
    assert names(load_dataset(yaml).splits["test"]) == ["t.jpg"]


FAULTS = {
    "no names": ("train: images/train\nval: images/val\n", ["data.yaml: no class names"]),
    "empty names": (YAML.replace("[cat, dog]", ""), ["data.yaml:3:1: no class names"]),
    "nc disagrees": (YAML + "nc: 3\n", ["data.yaml:4:1: nc is 3, but names has 2"]),
    "gap in names": (
        YAML.replace("[cat, dog]", "{0: cat, 2: dog}"),
        ["data.yaml:3:1:", "0..1", "not 0, 2"],
    ),
    "class number twice": (
        YAML.replace("[cat, dog]", "{0: cat, 1: dog, 0: cow}"),
        ["data.yaml:3:25: class number 0 is given twice"],
    ),
    "key twice": (YAML + "val: images/train\n", ["data.yaml:4:1: key val is given twice"]),
    "no label in val": (
        YAML.replace("images/val", "bare/images"),
        ["data.yaml:2:1: no image of the val split has a label file", "bare/labels/a.txt"],
    ),
    "text as class number": (YAML.replace("[cat, dog]", "{a: cat}"), ["data.yaml:3:1:", "not a"]),
    "not YAML": (
        "train: images/train\nval: [images\nnames: x\n",
        ["data.yaml:3:6: not valid YAML"],
    ),
    "a tab": ("train:\n\timages\n", ["data.yaml:2:1: not valid YAML"]),
    "a list": ("- train\n- val\n", ["not a data yaml"]),
    "nothing": ("", ["not a data yaml"]),
    "no val": ("train: images/train\nnames: [cat]\n", ["data.yaml: no 'val'"]),
    "no train": ("val: images/val\nnames: [cat]\n", ["data.yaml: no 'train'"]),
    "folder is not there": (
        YAML.replace("images/val", "images/valid"),
        ["data.yaml:2:1: no such folder", "images/valid"],
    ),
    "root is not there": ("path: nowhere\n" + YAML, ["data.yaml:1:1: no such folder", "nowhere"]),
    "path is no text": ("path: 7\n" + YAML, ["data.yaml:1:1:", "7"]),
    "split is no path": (YAML.replace("images/val", "{a: b}"), ["data.yaml:2:1: val must be"]),
    "empty val": (YAML.replace("images/val", "empty"), ["data.yaml:2:1: the val split is empty"]),
    "empty test": (YAML + "test: empty\n", ["data.yaml:4:1: the test split is empty"]),
    "lost image in a list": (
        YAML.replace("images/train", "list.txt"),
        ["list.txt:2: no such image", "lost.jpg"],
    ),
    "list of bytes": (YAML.replace("images/train", "list.bin"), ["list.bin", "no text"]),
    "no label at all": (
        YAML.replace("images/train", "bare/images"),
        ["data.yaml:1:1: no image of the train split has a label file", "bare/labels/a.txt"],
    ),
}


@pytest.mark.parametrize(("text", "parts"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_place(tmp_path: Path, text: str, parts: list[str]) -> None:
    yaml = make_data(tmp_path, text)
    (tmp_path / "empty").mkdir()
    add_image(tmp_path, "bare/images/a.jpg")
    (tmp_path / "list.txt").write_text("images/train/0.jpg\nlost.jpg\n")
    (tmp_path / "list.bin").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(CompressError) as caught:
        load_dataset(yaml)
    assert caught.value.exit_code == 2
    for part in parts:
        assert part in str(caught.value)


def test_a_yaml_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"none\.yaml: cannot read the data yaml: No such file"):
        load_dataset(tmp_path / "none.yaml")
    with pytest.raises(CompressError, match="cannot read the data yaml"):
        load_dataset(tmp_path)
    (tmp_path / "data.yaml").write_bytes(b"names: \xff")
    with pytest.raises(CompressError, match="not UTF-8"):
        load_dataset(tmp_path / "data.yaml")


FOLDER = st.sampled_from(["images", "labels", "a", "images2", "my.images"])


@given(st.lists(FOLDER, max_size=5), st.lists(FOLDER.filter(lambda name: name != "images")))
def test_only_the_last_images_folder_becomes_labels(above: list[str], below: list[str]) -> None:
    image = Path("/", *above, "images", *below, "x.y.jpg")
    assert label_path(image) == Path("/", *above, "labels", *below, "x.y.txt")


@settings(deadline=None)  # the first call imports ultralytics
@given(st.lists(FOLDER, min_size=1, max_size=6))
def test_label_paths_are_those_of_ultralytics(folders: list[str]) -> None:
    utils = pytest.importorskip("ultralytics.data.utils")
    image = Path("/", *folders, "x.y.jpg")
    assert [str(label_path(image))] == utils.img2label_paths([str(image)])
