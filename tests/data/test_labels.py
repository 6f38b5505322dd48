"""Faulty label rows: all found, each named with its line, sound ones left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from data_sets import ROW, add_image, make_data
from hypothesis import given
from hypothesis import strategies as st

from compress.data.dataset import check_labels, load_dataset
from compress.data.labels import RowForm, label_faults
from compress.errors import CompressError

CLASSES = 4
share = st.floats(0, 1, allow_nan=False)
box = st.tuples(st.integers(0, CLASSES - 1), share, share, share, share)
BOX_FAULTS = {
    "4 0.5 0.5 0.1 0.1": "class 4, but the data has classes 0..3",
    "-1 0.5 0.5 0.1 0.1": "class -1",
    "1.5 0.5 0.5 0.1 0.1": "class 1.5",
    "0 0.5 0.5 0.1": "4 fields",
    "0 0.5 0.5 0.1 0.1 0.9": "6 fields",
    "0 1.2 0.5 0.1 0.1": "coordinate 1.2 is outside 0..1",
    "0 0.5 -0.2 0.1 0.1": "coordinate -0.2",
    "0 320 240 50 60": "coordinate 320",
    "0 0.5 0.5 -0.001 0.1": "width or height -0.001 is below zero",
    "0 0.5 0.5 nan 0.1": "not finite",
    "0 0.5 0.5 inf 0.1": "not finite",
    "cat 0.5 0.5 0.1 0.1": "not a number: 'cat'",
    "0 0,5 0.5 0.1 0.1": "not a number: '0,5'",
}
LONG_FAULTS = {
    "0 0.1 0.1 0.9 0.1 0.5 1.5": "coordinate 1.5",
    "9 0.1 0.1 0.9 0.1 0.5 0.9": "class 9",
    "0 0.5 0.5 0.1 0.1 0.5 0.5 3": "coordinate 3",
}


def text_of(rows: list[tuple[float, ...]]) -> str:
    return "".join(" ".join(f"{value}" for value in row) + "\n" for row in rows)


@given(st.lists(box))
def test_sound_boxes_have_no_fault(rows: list[tuple[float, ...]]) -> None:
    assert label_faults(text_of(rows), RowForm(CLASSES)) == []


@given(st.lists(box, max_size=8), st.sampled_from(sorted(BOX_FAULTS)), st.data())
def test_a_faulty_box_is_found_at_its_line(
    rows: list[tuple[float, ...]], fault: str, data: st.DataObject
) -> None:
    lines = text_of(rows).splitlines()
    place = data.draw(st.integers(0, len(lines)))
    lines.insert(place, fault)
    [(line, message)] = label_faults("\n".join(lines), RowForm(CLASSES))
    assert line == place + 1
    assert BOX_FAULTS[fault] in message


@pytest.mark.parametrize("fault", LONG_FAULTS)
def test_a_faulty_polygon_or_pose_is_found(fault: str) -> None:
    polygon = "0 0.1 0.1 0.9 0.1 0.5 0.9\n"
    [(line, message)] = label_faults(polygon + fault, RowForm(CLASSES))
    assert line == 2
    assert LONG_FAULTS[fault] in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "0 1.005 0.5 0.1 0.1",  # rounding of other tools, as ultralytics allows
        "0.0 0.5 0.5 0.1 0.1",
        "0 0.1 0.1 0.9 0.1 0.5 0.9",  # a polygon
        "0 0.5 0.5 0.1 0.1 0.5 0.5 2 0.4 0.4 0",  # a box with two keypoints
        "0 0.5 0.5 0.1 0.1\n\n1 0.5 0.5 0.1 0.1",
    ],
)
def test_what_ultralytics_takes_is_sound(text: str) -> None:
    assert label_faults(text, RowForm(CLASSES)) == []


def test_boxes_and_polygons_in_one_file_are_a_fault() -> None:
    [(_, message)] = label_faults(ROW + "0 0.1 0.1 0.9 0.1 0.5 0.9\n", RowForm(CLASSES))
    assert "mixed" in message


def test_all_faults_are_counted_and_the_first_ten_shown(tmp_path: Path) -> None:
    yaml = make_data(tmp_path)
    add_image(tmp_path, "images/train/a.jpg", ROW + "7 0.5 0.5 0.1 0.1\n" * 20)
    add_image(tmp_path, "images/val/b.jpg", "0 0.5\n")
    with pytest.raises(CompressError) as caught:
        check_labels(load_dataset(yaml))
    message = str(caught.value)
    assert "data.yaml: 21 faulty label rows" in message
    assert f"{tmp_path / 'labels/train/a.txt'}:2: class 7" in message
    assert message.count("class 7") == 10
    assert "and 11 more" in message
    assert caught.value.exit_code == 2


def test_an_image_without_a_label_file_is_background(tmp_path: Path) -> None:
    yaml = make_data(tmp_path)
    add_image(tmp_path, "images/train/background.jpg")
    check_labels(load_dataset(yaml))


def test_a_label_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    yaml = make_data(tmp_path)
    (tmp_path / "labels/train/0.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(CompressError, match=r"0\.txt:1: not UTF-8 text"):
        check_labels(load_dataset(yaml))


def test_a_large_set_is_checked_fast() -> None:
    text = ROW * 50
    began = time.process_time()
    for _ in range(2000):
        label_faults(text, RowForm(CLASSES))
    assert time.process_time() - began < 2.0  # a quarter of VisDrone; it takes about 0.2 s
