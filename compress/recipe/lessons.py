"""Rules of ``distill:`` sections: every loss must be able to act in the training it stands in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard, get_args

from compress.recipe.losses import DistillLoss, FeatureTerm
from compress.recipe.outline import StageOutline
from compress.recipe.tree import Fault, KeyPath, Tree

_UNIONED = get_args(get_args(DistillLoss)[0])
_ON_FEATURES = frozenset(
    get_args(loss.model_fields["kind"].annotation)[0]
    for loss in _UNIONED
    if issubclass(loss, FeatureTerm)
)
_KINDS = frozenset(get_args(loss.model_fields["kind"].annotation)[0] for loss in _UNIONED)
_MOSAIC, _CLOSE_MOSAIC = 1.0, 10  # ultralytics' defaults


def lesson_faults(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    """Each loss of a distill section must be able to act; wrong types are left to the schema."""
    for stage in stages:
        for path, section in stage.sections("distill"):
            train = tree.get((*path[:-1], "train"))
            yield from _section_faults(path, section, train if isinstance(train, dict) else {})


def _section_faults(
    path: KeyPath, distill: Mapping[str, Any], train: Mapping[str, Any]
) -> Iterator[Fault]:
    """What in the section at ``path`` would never act in a training by ``train``."""
    losses = [
        ((*path, "losses", index), loss)
        for index, loss in enumerate(_listed(distill.get("losses")))
        if isinstance(loss, dict)
    ]
    for place, loss in losses:
        yield from _times(place, loss, train)
        yield from _levels(place, loss)
    yield from _ground_truth(path, distill, losses)
    yield from _phases(path, distill, losses)


def _times(place: KeyPath, loss: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[Fault]:
    epochs, start = train.get("epochs"), loss.get("start", 0)
    if not (_whole(epochs) and _whole(start) and epochs > 0):
        return
    if start >= epochs:
        message = f"the training has {epochs} epochs, counted from 0, so this loss would never act"
        yield Fault((*place, "start"), message)
    elif loss.get("stop") == "close_mosaic":
        yield from _closing((*place, "stop"), start, epochs, train)


def _closing(place: KeyPath, start: int, epochs: int, train: Mapping[str, Any]) -> Iterator[Fault]:
    mosaic, last = train.get("mosaic", _MOSAIC), train.get("close_mosaic", _CLOSE_MOSAIC)
    if mosaic == 0 or last == 0:
        why = "`mosaic: 0` makes no mosaic" if mosaic == 0 else "`close_mosaic: 0` keeps mosaic on"
        yield Fault(place, f"{why}, so it would never stop at its closing. Give a number of epochs")
    elif _whole(last) and epochs - last <= start:
        closes = max(epochs - last, 0)
        message = (
            f"mosaic is off from epoch {closes} on (`close_mosaic: {last}` of {epochs} epochs), so "
            f"this loss, from epoch {start} on, would never act"
        )
        yield Fault(place, message)


def _levels(place: KeyPath, loss: Mapping[str, Any]) -> Iterator[Fault]:
    """Strides of a pyramid are powers of two, each is named once."""
    levels = _listed(loss.get("levels"))
    for index, stride in enumerate(levels):
        here = (*place, "levels", index)
        if not _whole(stride) or stride < 1:
            continue  # the schema says so
        if stride & (stride - 1) or stride == 1:
            yield Fault(here, f"{stride} is no stride of a detector: they are 4, 8, 16, 32 or 64")
        elif stride in levels[:index]:
            yield Fault(here, f"names {stride} twice")


def _ground_truth(
    path: KeyPath, distill: Mapping[str, Any], losses: Sequence[tuple[KeyPath, Any]]
) -> Iterator[Fault]:
    """Features alone train no head."""
    kinds = [loss.get("kind") for _, loss in losses]
    if distill.get("labels", 1.0) == 0 and kinds and _ON_FEATURES.issuperset(kinds):
        message = "without labels and with losses on features alone, nothing would train the head"
        yield Fault((*path, "labels"), message)


def _phases(
    path: KeyPath, distill: Mapping[str, Any], losses: Sequence[tuple[KeyPath, Any]]
) -> Iterator[Fault]:
    phases = [phase for phase in _listed(distill.get("phases")) if isinstance(phase, dict)]
    if not phases or any(loss.get("kind") not in _KINDS for _, loss in losses):
        return
    given = {_source(loss) for _, loss in losses}
    if distill.get("labels", 1.0) != 0:
        given.add("labels")
    for number, phase in enumerate(phases):
        learn = _listed(phase.get("learn"))
        for index, source in enumerate(learn):
            here = (*path, "phases", number, "learn", index)
            if source in learn[:index]:
                yield Fault(here, f"names '{source}' twice")
            elif source in ("features", "outputs", "labels") and source not in given:
                lacks = "`labels: 0` is set" if source == "labels" else f"no loss is on {source}"
                yield Fault(here, f"{lacks}, so there is nothing to learn from")
    learnt = {source for phase in phases for source in _listed(phase.get("learn"))}
    for place, loss in losses:
        if learnt and _source(loss) not in learnt:
            message = f"no phase learns from {_source(loss)}, so this loss would never act"
            yield Fault((*place, "kind"), message)


def _source(loss: Mapping[str, Any]) -> str:
    return "features" if loss.get("kind") in _ON_FEATURES else "outputs"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
