"""Which of a teacher's class channels speak of the data's classes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from compress.errors import CompressError
from compress.models.checkpoint import class_names

_SHOWN = 8


def class_index(
    teacher: nn.Module, names: Mapping[int, str], what: str = "the teacher"
) -> list[int] | None:
    """For each class of the data the teacher's channel of the same name; None if all are equal.

    Names are compared without case and outer blanks. A teacher may know more classes than the
    data have, and have them in another order.

    Raises:
        CompressError: the teacher lacks a class; ``what`` says which teacher it is.
    """
    theirs = class_names(teacher)
    channels: dict[str, int] = {}
    for channel, name in sorted(theirs.items()):
        channels.setdefault(_plain(name), channel)
    wanted = [name for _, name in sorted(names.items())]
    lacking = [name for name in wanted if _plain(name) not in channels]
    if lacking:
        raise CompressError(
            f"{what} lacks {len(lacking)} of the data's classes: "
            f"{_listed(dict(enumerate(lacking)))}.\n"
            f"  it predicts: {_listed(theirs)}\n"
            f"  data: {_listed(names)}\n"
            "Losses on features need no classes; else train it on these data first: name it "
            "`teacher:` and give it a `train` stage of `role: teacher`."
        )
    index = [channels[_plain(name)] for name in wanted]
    return None if index == list(range(len(theirs))) else index


def _listed(names: Mapping[int, str]) -> str:
    listed = ", ".join(str(name) for _, name in sorted(names.items())[:_SHOWN])
    return listed + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")


def _plain(name: str) -> str:
    return str(name).strip().casefold()
