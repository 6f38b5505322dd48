"""Hostile input of an export: each is refused in one message that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from export_nets import Exported

from export.dialects import write_dialect
from export.errors import ExportError
from export.ranges import GroupRange, Ranges, load_ranges


def first_group(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["groups"][0].update(values)


def without(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "scale zero": first_group(scale=0.0),
    "scale negative": first_group(scale=-0.1),
    "scale nan": first_group(scale=float("nan")),
    "scale infinite": first_group(scale=float("inf")),
    "scale text": first_group(scale="wide"),
    "scale null": first_group(scale=None),
    "zero point too large": first_group(zero_point=256),
    "zero point negative": first_group(zero_point=-1),
    "zero point infinite": first_group(zero_point=float("inf")),
    "zero point nan": first_group(zero_point=float("nan")),
    "no scale": without("groups", 0, "scale"),
    "no groups": without("groups"),
    "no convs": without("convs"),
    "groups no list": lambda content: content.update(groups=7),
    "another schema": lambda content: content.update(schema=99),
    "no schema": without("schema"),
}


@pytest.fixture
def ranges_file(exported: Exported, tmp_path: Path) -> Path:
    exported.ranges.save(tmp_path / "my_ranges.json")
    return tmp_path / "my_ranges.json"


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_ranges_file_is_refused_by_name(ranges_file: Path, fault: str) -> None:
    content = json.loads(ranges_file.read_text())
    BROKEN[fault](content)
    ranges_file.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"my_ranges\.json"):
        load_ranges(ranges_file)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"groups": [1]}'])
def test_bytes_that_are_no_ranges_file_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "my_ranges.json").write_bytes(data)
    with pytest.raises(ExportError, match=r"my_ranges\.json: not a readable ranges file"):
        load_ranges(tmp_path / "my_ranges.json")


def test_a_missing_ranges_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("gone.json", "."):
        with pytest.raises(ExportError, match="not a readable ranges file"):
            load_ranges(tmp_path / name)


def test_a_range_says_what_it_covers() -> None:
    group = GroupRange(scale=0.5, zero_point=10, clipped=0.0, tensors=("x",))
    assert (group.low, group.high) == (-5.0, 122.5)
    ranges = Ranges(("onnxruntime",), (group,), ())
    assert ranges.by_tensor() == {"x": group}


def foreign(ranges: Ranges) -> Ranges:
    """Of a model with one layer more."""
    stranger = GroupRange(0.1, 0, 0.0, ("/model.99/conv/Conv_output_0",))
    return Ranges(ranges.targets, (*ranges.groups, stranger), ranges.convs)


def foreign_conv(ranges: Ranges) -> Ranges:
    return Ranges(ranges.targets, ranges.groups, (*ranges.convs, "model.99.conv"))


def incomplete(ranges: Ranges) -> Ranges:
    return Ranges(ranges.targets, ranges.groups[1:], ranges.convs)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize(
    ("change", "named"),
    [(foreign, "/model.99/"), (foreign_conv, "model.99.conv"), (incomplete, "'images'")],
)
def test_ranges_of_another_model_are_refused_before_anything_is_written(
    exported: Exported,
    tmp_path: Path,
    target: str,
    change: Callable[[Ranges], Ranges],
    named: str,
) -> None:
    with pytest.raises(ExportError, match="another model") as error:
        write_dialect(target, exported.float_onnx, change(exported.ranges), tmp_path / "x.onnx")
    assert named in str(error.value)
    assert str(exported.float_onnx) in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [None, b"", b"not onnx at all", b"\x08\x08\x12"])
def test_a_float_file_that_is_none_is_refused_by_name(
    exported: Exported, tmp_path: Path, data: bytes | None
) -> None:
    path = tmp_path / "bad.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ExportError, match=r"bad\.onnx"):
        write_dialect("onnxruntime", path, exported.ranges, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
