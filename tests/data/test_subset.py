"""A data yaml of some images: they and their labels, and all else as it was."""

from __future__ import annotations

from pathlib import Path

import yaml

from compress.data.dataset import DataSet, label_path, load_dataset
from compress.data.subset import write_subset


def test_both_splits_are_the_images_with_their_labels(dataset: DataSet, tmp_path: Path) -> None:
    chosen = dataset.splits["train"][3:7]
    subset = load_dataset(write_subset(dataset, chosen, tmp_path / "some"))
    assert subset.splits == {"train": chosen, "val": chosen}
    assert subset.names == dataset.names
    assert all(label_path(image).is_file() for image in subset.splits["val"])


def test_what_the_yaml_says_of_labels_is_kept(dataset: DataSet, tmp_path: Path) -> None:
    values = yaml.safe_load(dataset.yaml.read_text())
    root = dataset.yaml.parent
    extra = {"kpt_shape": [3, 2], "flip_idx": [0, 2, 1], "download": "nothing", "path": str(root)}
    source = tmp_path / "own.yaml"
    source.write_text(yaml.safe_dump({**values, **extra}))
    data = load_dataset(source)
    written = write_subset(data, data.splits["train"][:2], tmp_path / "some")
    content = yaml.safe_load(written.read_text())
    assert content["kpt_shape"] == [3, 2]
    assert content["flip_idx"] == [0, 2, 1]
    assert "download" not in content
    assert "test" not in content


def test_it_can_be_written_again(dataset: DataSet, tmp_path: Path) -> None:
    for count in (5, 2):
        subset = load_dataset(write_subset(dataset, dataset.splits["train"][:count], tmp_path))
        assert len(subset.splits["val"]) == count
