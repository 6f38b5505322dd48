"""A teacher's class channels are found by the names of the data's classes."""

from __future__ import annotations

import pytest
from torch import nn

from compress.errors import CompressError
from compress.models.class_map import class_index

DATA = {0: "square", 1: "disc", 2: "bar"}


def teacher(*names: str) -> nn.Module:
    model = nn.Module()
    model.names = dict(enumerate(names))  # type: ignore[assignment]
    return model


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("square", "disc", "bar"), None),
        (("bar", "square", "disc"), [1, 2, 0]),
        (("x", "disc", "bar", "y", "square"), [4, 1, 2]),
        (("square", "disc", "bar", "more"), [0, 1, 2]),  # as many channels must be picked
        ((" Square", "DISC", "bar"), None),
        (("disc", "disc", "bar", "square"), [3, 0, 2]),
    ],
)
def test_channels_of_the_same_names(names: tuple[str, ...], expected: list[int] | None) -> None:
    assert class_index(teacher(*names), DATA) == expected


def test_a_class_that_is_missing_is_named_with_both_lists() -> None:
    with pytest.raises(CompressError) as caught:
        class_index(teacher("disc", "cat"), DATA, "teacher 'big.pt'")
    first, theirs, ours, todo = str(caught.value).splitlines()
    assert first == "teacher 'big.pt' lacks 2 of the data's classes: square, bar."
    assert (theirs, ours) == ("  it predicts: disc, cat", "  data: square, disc, bar")
    assert "`role: teacher`" in todo


def test_long_lists_are_cut() -> None:
    with pytest.raises(CompressError, match=r"\.\.\. \(80 in all\)"):
        class_index(teacher(*map(str, range(80))), DATA)
