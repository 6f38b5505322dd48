"""Labels of polygons, keypoints and oriented boxes: each task has rows of its own form."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_sets import YAML, make_data

from compress.data.data_yaml import Keypoints
from compress.data.dataset import check_labels, load_dataset
from compress.data.fingerprint import fingerprint
from compress.data.labels import RowForm, label_faults
from compress.errors import CompressError

BOX = "0 0.5 0.5 0.2 0.2"
TRIANGLE = "0 0.1 0.1 0.9 0.1 0.5 0.9"
CORNERS = "1 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9"
POSE = f"{BOX} 0.4 0.4 2 0.6 0.6 0"  # two keypoints with visibility
FORMS = {
    "segment": RowForm(2, "segment"),
    "pose": RowForm(2, "pose", (2, 3)),
    "obb": RowForm(2, "obb"),
}
SOUND = {"segment": [TRIANGLE, CORNERS], "pose": [POSE], "obb": [CORNERS]}
KEYS = "kpt_shape: [2, 3]\nflip_idx: [1, 0]\n"


@pytest.mark.parametrize("task", FORMS)
def test_a_row_of_another_task_is_found_at_its_line(task: str) -> None:
    sound = SOUND[task]
    assert label_faults("\n".join(sound), FORMS[task]) == []
    for row in {BOX, TRIANGLE, CORNERS, POSE} - set(sound):
        faults = label_faults("\n".join([*sound, row]), FORMS[task])
        [(line, message)] = faults
        assert line == len(sound) + 1
        # a row with keypoints may be as long as a polygon, but has a 2 in it
        length = f"{len(row.split())} fields; "
        assert message.startswith("coordinate 2" if (task, row) == ("segment", POSE) else length)


def test_rows_of_the_right_length_are_still_read() -> None:
    for task, bad in {
        "segment": "0 0.1 0.1 0.9 0.1 0.5 1.9",
        "obb": "2 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9",
        "pose": f"{BOX} 0.4 nan 2 0.6 0.6 0",
    }.items():
        assert len(label_faults(bad, FORMS[task])) == 1, task


def test_polygons_with_half_a_corner_are_refused() -> None:
    [(_, message)] = label_faults(f"{TRIANGLE} 0.3", FORMS["segment"])
    assert message.startswith("8 fields; a polygon")


def test_check_labels_asks_for_what_the_task_needs(tmp_path: Path) -> None:
    dataset = load_dataset(make_data(tmp_path))
    check_labels(dataset)
    with pytest.raises(CompressError, match="6 faulty label rows") as told:
        check_labels(dataset, "obb")
    assert "oriented box has 9" in str(told.value)
    with pytest.raises(CompressError, match="no kpt_shape"):
        check_labels(dataset, "pose")


def test_keypoints_are_read_and_change_the_fingerprint(tmp_path: Path) -> None:
    plain = load_dataset(make_data(tmp_path))
    assert plain.keypoints is plain.keypoint_shape is None
    prints = {fingerprint(plain, tmp_path / "memo")}
    for extra in (KEYS, "kpt_shape: [2, 3]\n", f"{KEYS}kpt_oks_sigmas: [0.1, 0.2]\n"):
        dataset = load_dataset(make_data(tmp_path, YAML + extra))
        assert dataset.keypoint_shape == (2, 3)
        prints.add(fingerprint(dataset, tmp_path / "memo"))
    assert dataset.keypoints == Keypoints((2, 3), (1, 0), (0.1, 0.2))
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kpt_shape: 17", r"data\.yaml:4:1: kpt_shape must be two numbers"),
        ("kpt_shape: [17, 4]", "kpt_shape must be two numbers"),
        ("kpt_shape: [0, 3]", "kpt_shape must be two numbers"),
        ("kpt_shape: [2, 3]\nflip_idx: [0, 0]", r":5:1: flip_idx must name each of the 2"),
        ("kpt_shape: [2, 3]\nflip_idx: [0]", "flip_idx must name"),
        ("kpt_shape: [2, 3]\nkpt_oks_sigmas: [0.1]", "kpt_oks_sigmas must be 2 numbers"),
    ],
)
def test_faulty_keypoint_keys_are_told_with_their_line(
    text: str, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(CompressError, match=fault):
        load_dataset(make_data(tmp_path, f"{YAML}{text}\n"))
