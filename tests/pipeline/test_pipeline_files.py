from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.pipeline.files import (
    canonical_json,
    jsonable,
    link_or_copy,
    read_json,
    sha256_of,
    write_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_a_reader_sees_the_old_text_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_json(file, {"old": 1})
    with file.open() as reader:
        write_json(file, {"new": 2})
        assert "old" in reader.read()
    assert read_json(file) == {"new": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_what_cannot_be_written_leaves_the_old_text(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_json(file, {"old": 1})
    with pytest.raises(TypeError):
        write_json(file, {"new": object()})
    assert read_json(file) == {"old": 1}


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"{", b"\xff\xfe"])
def test_unreadable_json_is_empty(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "x.json"
    if content is not None:
        file.write_bytes(content)
    assert read_json(file) == {}


@given(JSON)
def test_jsonable_survives_the_way_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    plain = jsonable({"value": value})
    file = tmp_path_factory.mktemp("json") / "x.json"
    write_json(file, plain)
    assert canonical_json(read_json(file)) == canonical_json(plain)


def test_numpy_numbers_become_plain() -> None:
    assert canonical_json(
        jsonable({1: np.float32(0.5), "n": np.int64(3), "b": (True, np.nan)})
    ) == ('{"1":0.5,"b":[true,null],"n":3}')


def test_link_replaces_what_is_there(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "sub" / "b"
    source.write_text("new")
    target.parent.mkdir()
    target.write_text("old")
    link_or_copy(source, target)
    link_or_copy(source, target)
    assert target.samefile(source)
    assert sha256_of(target) == sha256_of(source)
    assert [path.name for path in target.parent.iterdir()] == ["b"]
