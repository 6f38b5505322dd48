"""Which layer of the student learns from which layer of the teacher."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Union

import torch
from torch import nn

from compress.distill.taps import probe_shapes
from compress.errors import CompressError
from compress.models.inspect import backbone_layers, neck_layers

Where = Union[Literal["neck", "backbone"], tuple[Union[int, str], ...]]


@dataclass(frozen=True)
class Pair:
    """Two layers whose outputs have one stride; widths are their channels."""

    student: str
    teacher: str
    stride: int
    student_width: int
    teacher_width: int


def match_layers(
    student: nn.Module,
    teacher: nn.Module,
    at: Where,
    teacher_at: Sequence[int | str] | None,
    levels: Sequence[int] | None,
    imgsz: int,
    device: torch.device,
) -> list[Pair]:
    """Pairs by stride (``neck``, ``backbone``), or layer by layer as named.

    ``levels`` keeps only pairs of these strides. Channels and strides are found by running one
    empty image of ``imgsz`` pixels squared.

    Raises:
        CompressError: no such layer, no stride that both have, or named layers of other strides.
    """
    if isinstance(at, str):
        ours, theirs = (_by_stride(model, at, imgsz, device) for model in (student, teacher))
        strides = sorted(ours.keys() & theirs.keys())
        named = [(ours[stride], theirs[stride]) for stride in strides]
        if not strides:
            raise CompressError(
                f"distill: student and teacher share no stride (student {sorted(ours)}, teacher "
                f"{sorted(theirs)}). Choose a teacher of the same kind."
            )
    else:
        other = at if teacher_at is None else teacher_at
        named = [
            (_layer(student, own, "student"), _layer(teacher, its, "teacher"))
            for own, its in zip(at, other, strict=True)
        ]
    pairs = _pairs(student, teacher, named, imgsz, device)
    here = {pair.stride for pair in pairs}
    missing = sorted(set(levels or ()) - here)
    if missing:
        raise CompressError(
            f"distill: `levels` names {missing}, but strides here are {sorted(here)}; take them out"
        )
    return [pair for pair in pairs if levels is None or pair.stride in levels]


def _pairs(
    student: nn.Module,
    teacher: nn.Module,
    named: Sequence[tuple[str, str]],
    imgsz: int,
    device: torch.device,
) -> list[Pair]:
    ours = probe_shapes(student, [own for own, _ in named], imgsz, device)
    theirs = probe_shapes(teacher, [its for _, its in named], imgsz, device)
    for whose, found, layers in (("student", ours, 0), ("teacher", theirs, 1)):
        flat = [pair[layers] for pair in named if pair[layers] not in found]
        if flat:
            raise CompressError(f"distill: the {whose}'s '{flat[0]}' gives no map of features.")
    pairs = []
    for own, its in named:
        (width, height, _), (their_width, their_height, _) = ours[own], theirs[its]
        if height != their_height:
            raise CompressError(
                f"distill: student's '{own}' has stride {imgsz // height}, teacher's '{its}' has "
                f"{imgsz // their_height}. Name layers of one stride; `teacher_at:` names the "
                "teacher's where they have other numbers."
            )
        pairs.append(Pair(own, its, imgsz // height, width, their_width))
    return pairs


def _by_stride(model: nn.Module, at: str, imgsz: int, device: torch.device) -> Mapping[int, str]:
    if at == "neck":
        return neck_layers(model)
    layers = backbone_layers(model)
    shapes = probe_shapes(model, layers, imgsz, device)
    # of layers with one stride the last wins: it has seen the most
    return {imgsz // shapes[layer][1]: layer for layer in layers if layer in shapes}


def _layer(model: nn.Module, named: int | str, whose: str) -> str:
    name = f"model.{named}" if isinstance(named, int) else named
    known = [layer for layer, _ in model.named_modules() if layer]
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, 3)
    hint = f" Did you mean {', '.join(close)}?" if close else " Names look like model.15."
    raise CompressError(f"distill: the {whose} has no layer '{name}'.{hint}")
