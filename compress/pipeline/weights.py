"""Open the weights that a recipe names before anything is trained on them. Imports torch late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import CompressError
from compress.models.heads import HeadFacts, facts_of_yaml
from compress.pipeline.job import Job, written_at
from compress.pipeline.links import FromRecipe, Step
from compress.pipeline.tasks import task_faults
from compress.recipe.schema import TrainStage
from compress.recipe.tree import Fault, KeyPath
from export.patterns import matching

if TYPE_CHECKING:
    from torch import nn

_PATTERNS = ("ignore", "min_channels", "float_layers")
_SHOWN = 3


@dataclass(frozen=True)
class _Weights:
    """Weights or a model yaml of the recipe; ``as_is`` where its classes must be the data's."""

    reference: str
    what: str
    as_is: bool
    is_base: bool


def weight_faults(job: Job, steps: Sequence[Step]) -> list[Fault]:
    """Look into all weights and model yamls that ``steps`` take; what is wrong with each.

    Checked are the file, its head, its classes where nothing trains them, and, on the base, the
    names of layers in the recipe, and whether stages and labels suit its task. Nothing heavy is
    imported where all of them are model yamls.

    Raises:
        ModuleNotFoundError: torch or ultralytics is not installed.
    """
    faults: list[Fault] = []
    models: dict[str, nn.Module] = {}
    heads: dict[str, HeadFacts | None] = {}
    for weights in _named(steps):
        reference = weights.reference
        path = written_at(job.recipe, reference)
        try:
            if reference not in heads:
                heads[reference] = _head(job, reference, models)
            if weights.as_is and reference in models:
                _require_fit(models[reference], job, weights.what)
            if weights.is_base and reference in models:
                faults += _pattern_faults(models[reference], job, steps)
        except CompressError as error:
            faults.append(Fault(path, str(error)))
    base = heads.get(job.recipe.model)
    if base is not None:
        others = {name: head for name, head in heads.items() if head is not None}
        faults += task_faults(base, others, job, steps)
    return list(dict.fromkeys(faults))


def _named(steps: Sequence[Step]) -> Iterator[_Weights]:
    for step in steps:
        config = step.config
        for link in step.links.values():
            if not isinstance(link, FromRecipe):
                continue
            trained = isinstance(config, TrainStage)
            what = config.role if trained else "teacher"
            yield _Weights(
                link.reference,
                f"{what} '{Path(link.reference).name}'",
                as_is=not trained or config.when == "never",
                is_base=trained and config.role == "base",
            )


def _head(job: Job, reference: str, models: dict[str, nn.Module]) -> HeadFacts | None:
    """Of a model yaml without opening more than that; weights are loaded into ``models``."""
    if Path(reference).suffix != ".pt":
        return facts_of_yaml(
            job.named[reference].path if reference in job.named else Path(reference)
        )
    from compress.models.checkpoint import load_checkpoint
    from compress.models.inspect import head_facts

    file = job.named[reference].path
    models[reference] = load_checkpoint(file)
    try:
        return head_facts(models[reference])
    except CompressError as error:
        del models[reference]
        raise CompressError(f"{file}: {error}") from error


def _require_fit(model: nn.Module, job: Job, what: str) -> None:
    """Classes and keypoints of a model that nothing trains must be the data's."""
    from compress.models.build import knows_keypoints, require_classes

    require_classes(model, job.data.names, what)
    if not knows_keypoints(model, job.data.keypoint_shape):
        raise CompressError(
            f"{what} predicts other keypoints than the data's kpt_shape. Train it on these data "
            "first: a `train` stage does."
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
