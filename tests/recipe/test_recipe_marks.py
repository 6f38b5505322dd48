"""YAML: what is read, and the place of what cannot be."""

from __future__ import annotations

import re
import string
import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compress.recipe.marks import MAX_BYTES, read_tree, read_value

UNREADABLE = {
    "empty": (b"", "1:1", "empty"),
    "only a comment": (b"# nothing\n", "1:1", "empty"),
    "a list": (b"\n- a\n", "2:1", "a recipe is a mapping"),
    "a word": (b"hello", "1:1", "a recipe is a mapping"),
    "a tab": (b"a:\n\tb: 1\n", "2:1", "a tab where YAML wants spaces"),
    "open bracket": (b"a: [1\nb: 2\n", "2:2", "not valid YAML"),
    "open quote": (b"a: 'x\n", "2:1", "line 1"),
    "colon in text": (b"a: b: c\n", "1:5", "unexpected ': '"),
    "wrong indentation": (b"a:\n  b: 1\n c: 2\n", "3:2", "wrong indentation"),
    "unknown alias": (b"a: 1\nb: *kd\n", "2:4", "undefined alias 'kd'"),
    "anchor twice": (b"a: &x 1\nb: &x 2\n", "2:4", "defined already (line 1)"),
    "two documents": (b"a: 1\n---\nb: 1\n", "2:1", "second YAML document"),
    "utf-16": ("a: 1".encode("utf-16"), "1:1", "not UTF-8"),
    "latin-1": (b"a: 1\nb: caf\xe9\n", "2:7", "byte 0xe9"),
    "control character": (b"a: 1\nb: \x07\n", "2:4", "U+0007"),
    "alias of itself": (b"a: &a [1, *a]\n", "1:11", "inside its own anchor"),
    "merge of itself": (b"a: &a {<<: *a}\n", "1:12", "inside its own anchor"),
    "too deep": (b"a: " + b"[" * 5000, "1:35", "nested deeper"),
    "too large": (b"a: '" + b"x" * MAX_BYTES, "1:1", "larger than 256 KiB"),
}

FAULTY = {
    "python tag": (b"a: !!python/object:os.system x", "1:4", "'!!python/object:os.system'"),
    "own tag": (b"a: !env HOME", "1:4", "'!env'"),
    "set tag": (b"a: !!set {x}", "1:4", "'!!set'"),
    "wrong tag": (b"a: !!int x", "1:4", "'x' cannot be read as int"),
    "huge number": (b"a: " + b"9" * 5000, "1:4", "cannot be read as int; quote it"),
    "huge hexadecimal number": (b"a: 0x" + b"f" * 5000, "1:4", "cannot be read as int"),
    "mapping as key": (b"? {a: 1}\n: 2\n", "1:3", "a key must be plain text"),
    "merge of text": (b"a:\n  <<: x\n", "2:7", "'<<' takes a mapping"),
    "duplicate": (
        b"a:\n  b: 1\n  b: 1\n",
        "3:3",
        "a.b: duplicate key; it is given first at line 2",
    ),
    "duplicate in an anchor": (b"a: &k {b: 1, b: 2}\nc: *k\nd: *k\n", "1:14", "duplicate"),
}


@pytest.mark.parametrize("case", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_cannot_be_read_has_one_problem(case: tuple[bytes, str, str]) -> None:
    text, place, words = case
    tree, (problem,) = read_tree(text)
    assert tree is None
    assert f"{problem.line}:{problem.column}" == place
    assert words in problem.message


@pytest.mark.parametrize("case", FAULTY.values(), ids=FAULTY.keys())
def test_what_can_be_read_in_spite_of_a_fault_is(case: tuple[bytes, str, str]) -> None:
    text, place, words = case
    tree, (problem,) = read_tree(text)
    assert tree is not None
    assert f"{problem.line}:{problem.column}" == place
    assert words in problem.message


@pytest.mark.parametrize("level", ["[{0}]", "{{<<: [{0}]}}"])
def test_an_alias_bomb_is_refused_at_once(level: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, 12):
        lines.append(f"a{i}: &a{i} {level.format(', '.join([f'*a{i - 1}'] * 9))}")
    began = time.monotonic()
    tree, (problem,) = read_tree("\n".join(lines).encode())
    assert tree is None
    assert "values, aliases expanded" in problem.message
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1E+3", -1000.0),
        ("1.5e-05", 1.5e-5),
        (".5e1", 5.0),
        ("1e", "1e"),
        ("e5", "e5"),
        ("2024-01-01", "2024-01-01"),
        ("0.10", 0.1),
        ("off", False),
        ("~", None),
        ("'1e-4'", "1e-4"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    tree, problems = read_tree(f"a: {text}".encode())
    assert not problems
    assert tree is not None
    assert tree.value == {"a": value}
    assert read_value(text) == value


@pytest.mark.parametrize(
    "path",
    [
        "a b.yaml",
        "set #2.yaml",
        "x: y.yaml",
        "*.yaml",
        "@home/x",
        "%TEMP%",
        "C:\\x.yaml",
        "!x",
        "&a",
    ],
)
def test_an_overridden_path_stays_as_it_is(path: str) -> None:
    assert read_value(path) == path


def test_merge_keys_give_way_to_own_keys_and_nearer_ones() -> None:
    text = b"a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {x: 3, <<: [*a, *b]}\nd: {<<: *a}\n"
    tree, problems = read_tree(text)
    assert not problems
    assert tree is not None
    assert tree.value == yaml.safe_load(text)


def test_an_alias_is_a_copy() -> None:
    tree, _ = read_tree(b"a: &k {x: [1]}\nb: *k\n")
    assert tree is not None
    tree.value["a"]["x"].append(2)
    assert tree.value["b"] == {"x": [1]}


KEYS = st.text(string.ascii_lowercase + "_-", min_size=1, max_size=8).filter(
    lambda key: isinstance(yaml.safe_load(key), str)
)
EXPONENT = re.compile(r"[-+]?[0-9._]+[eE][-+]?[0-9]+")  # YAML 1.1 leaves 1e4 unquoted: text to it
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(1 - 2**63, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12).filter(
        lambda text: not EXPONENT.fullmatch(text)
    )
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), st.booleans())
def test_what_is_dumped_is_read_back_with_every_place(value: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, default_flow_style=flow)
    tree, problems = read_tree(text.encode())
    assert not problems
    assert tree is not None
    assert tree.value == value
    lines = text.splitlines()
    for path, place in tree.keys.items():
        assert lines[place.line - 1][place.column - 1 :].lstrip("'\"").startswith(str(path[-1]))


@given(st.binary(max_size=200) | st.text(alphabet="ab:- \n\t[]{}&*<!#'\"|>%@`?,1", max_size=80))
def test_any_bytes_give_a_tree_or_problems_with_a_place(source: bytes | str) -> None:
    tree, problems = read_tree(source if isinstance(source, bytes) else source.encode())
    assert tree is not None or problems
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)
