"""Open the weights that a recipe names before anything is trained on them. Imports torch late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compress.errors import CompressError
from compress.models.heads import HeadFacts, facts_of_yaml
from compress.pipeline.job import Job, written_at
from compress.pipeline.links import FromRecipe, Step
from compress.pipeline.tasks import task_faults, teacher_place
from compress.recipe.losses import KeypointsLoss
from compress.recipe.schema import distill_of
from compress.recipe.tree import Fault, KeyPath
from export.patterns import matching

if TYPE_CHECKING:
    from torch import nn

_PATTERNS = ("ignore", "min_channels", "float_layers")
_SHOWN = 3


@dataclass(frozen=True)
class _Weights:
    """One use of weights or a model yaml that the recipe names, at ``place``.

    ``classes`` must be exactly the data's, or be found among its own by name, or not matter.
    ``trains`` where the stage always trains them, ``is_base`` where they are the chain's first.
    """

    reference: str
    what: str
    place: KeyPath
    classes: Literal["exact", "by_name", "any"]
    keypoints: bool
    trains: bool = False
    is_base: bool = False


def weight_faults(job: Job, steps: Sequence[Step]) -> list[Fault]:
    """Look into all weights and model yamls that ``steps`` take; what is wrong with each.

    Checked are the file, its head, its classes where nothing trains them, and, on the base, the
    names of layers in the recipe, and whether stages, teachers and labels suit its task. Nothing
    heavy is imported where all of them are model yamls. The file of the user's own layers is run.

    Raises:
        ModuleNotFoundError: torch or ultralytics is not installed.
    """
    named = list(_named(job, steps))
    if job.modules is None and all(_is_yaml(weights.reference) for weights in named):
        return _Look(job, steps).faults(named)
    from compress.models.custom_modules import custom_modules

    try:
        with custom_modules(job.modules.path if job.modules else None):
            return _Look(job, steps).faults(named)
    except CompressError as error:  # of the user's own layers; others are faults already
        return [Fault(("modules",), str(error))]


class _Look:
    """Opens each file once and keeps what it found."""

    def __init__(self, job: Job, steps: Sequence[Step]) -> None:
        self._job = job
        self._steps = steps
        self._models: dict[tuple[str, bool], nn.Module | None] = {}
        self._heads: dict[str, HeadFacts] = {}

    def faults(self, named: Sequence[_Weights]) -> list[Fault]:
        found: list[Fault] = []
        for weights in named:
            try:
                found += self._look(weights)
            except CompressError as error:
                found.append(Fault(weights.place, str(error)))
        base = self._heads.get(self._job.recipe.model)
        if base is not None:
            found += task_faults(base, self._heads, self._job, self._steps)
        return list(dict.fromkeys(found))

    def _look(self, weights: _Weights) -> list[Fault]:
        if _is_yaml(weights.reference):
            self._look_into_yaml(weights.reference)
            return []
        key = weights.reference, weights.trains
        if key not in self._models:
            self._models[key] = None  # a file that cannot be opened is told once
            self._models[key] = self._open(weights)
        model = self._models[key]
        if model is None:
            return []
        _require_fit(model, self._job, weights)
        return list(_pattern_faults(model, self._job, self._steps)) if weights.is_base else []

    def _look_into_yaml(self, reference: str) -> None:
        named = self._job.named.get(reference)
        head = facts_of_yaml(named.path if named is not None else Path(reference))
        if head is not None:
            self._heads[reference] = head

    def _open(self, weights: _Weights) -> nn.Module:
        from compress.models.build import build_model
        from compress.models.checkpoint import foreign_names, load_checkpoint
        from compress.models.inspect import head_facts
        from compress.models.legacy import is_legacy

        file, data = self._job.named[weights.reference].path, self._job.data
        if weights.trains and is_legacy(foreign_names(file)):
            model = build_model(file, data.names, self._job.recipe.seed)
        else:
            model = load_checkpoint(file)
        try:
            self._heads[weights.reference] = head_facts(model)
        except CompressError as error:
            raise CompressError(f"{file}: {error}") from error
        return model


def _is_yaml(reference: str) -> bool:
    return Path(reference).suffix != ".pt"


def _named(job: Job, steps: Sequence[Step]) -> Iterator[_Weights]:
    for step in steps:
        config = step.config
        for name, link in step.links.items():
            if not isinstance(link, FromRecipe):
                continue
            if name == "weights":
                taken = config.when == "never"
                yield _Weights(
                    link.reference,
                    _shown(config.role, link.reference),
                    written_at(job.recipe, link.reference),
                    classes="exact" if taken else "any",
                    keypoints=taken,
                    trains=config.when == "always",
                    is_base=config.role == "base",
                )
            else:
                yield _teacher(step, int(name.partition(".")[2]), link.reference)


def _teacher(step: Step, index: int, reference: str) -> _Weights:
    """A file that a distill section names itself."""
    section = distill_of(step.config)
    assert section is not None, "only such a section takes teachers"
    distill = section[1]
    by_name: Literal["by_name", "any"] = "by_name" if distill.reads_outputs else "any"
    return _Weights(
        reference,
        _shown("teacher", reference),
        teacher_place(step, index),
        classes="exact" if distill.teachers[index].online else by_name,
        keypoints=any(isinstance(loss, KeypointsLoss) for loss in distill.losses),
    )


def _shown(role: str, reference: str) -> str:
    return f"{role} '{Path(reference).name}'"


def _require_fit(model: nn.Module, job: Job, weights: _Weights) -> None:
    """Classes and keypoints of a model that nothing trains must suit the data's."""
    from compress.models.build import knows_keypoints, require_classes
    from compress.models.class_map import class_index

    if weights.classes == "exact":
        require_classes(model, job.data.names, weights.what)
    elif weights.classes == "by_name":
        class_index(model, job.data.names, weights.what)
    if weights.keypoints and not knows_keypoints(model, job.data.keypoint_shape):
        raise CompressError(
            f"{weights.what} predicts other keypoints than the data's kpt_shape. Train it on these "
            "data first: a `train` stage does."
        )


def _pattern_faults(base: nn.Module, job: Job, steps: Sequence[Step]) -> Iterator[Fault]:
    from compress.models.inspect import conv_widths

    layers = list(conv_widths(base))
    for path, pattern in _patterns(job, steps):
        if not matching(layers, pattern):
            like = ", ".join(layers[:_SHOWN])
            yield Fault(
                path,
                f"'{pattern}' matches no convolution of the model. Names look like {like}; "
                "'*' matches any text",
            )


def _patterns(job: Job, steps: Sequence[Step]) -> Iterator[tuple[KeyPath, str]]:
    for step in steps:
        for key in _PATTERNS:
            patterns = getattr(step.config, key, ())
            for number, pattern in enumerate(patterns):
                place = pattern if isinstance(patterns, Mapping) else number
                yield ("stages", step.number - 1, key, place), pattern
