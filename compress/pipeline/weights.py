"""Open the weights that a recipe names before anything is trained on them. Imports torch late."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import CompressError
from compress.pipeline.job import Job, written_at
from compress.pipeline.links import FromRecipe, Step
from compress.recipe.schema import TrainStage
from compress.recipe.tree import Fault, KeyPath
from export.patterns import matching

if TYPE_CHECKING:
    from torch import nn

_PATTERNS = ("ignore", "float_layers")
_SHOWN = 3


@dataclass(frozen=True)
class _Weights:
    """A ``.pt`` of the recipe; ``as_is`` where its classes must be the data's."""

    reference: str
    what: str
    as_is: bool
    is_base: bool


def weight_faults(job: Job, steps: Sequence[Step]) -> list[Fault]:
    """Read every ``.pt`` that ``steps`` take from the recipe; what is wrong with each.

    Checked are the file, its head, its classes where nothing trains them, and, on the base, the
    names of layers in the recipe. Nothing is imported where all of them are model yamls.

    Raises:
        ModuleNotFoundError: torch or ultralytics is not installed.
    """
    faults: list[Fault] = []
    models: dict[str, nn.Module] = {}
    for weights in _named(steps):
        path = written_at(job.recipe, weights.reference)
        try:
            if weights.reference not in models:
                models[weights.reference] = _detector(job.named[weights.reference].path)
            if weights.as_is:
                from compress.models.build import require_classes

                require_classes(models[weights.reference], job.data.names, weights.what)
            if weights.is_base:
                faults += _pattern_faults(models[weights.reference], job, steps)
        except CompressError as error:
            faults.append(Fault(path, str(error)))
    return list(dict.fromkeys(faults))


def _named(steps: Sequence[Step]) -> Iterator[_Weights]:
    for step in steps:
        config = step.config
        for link in step.links.values():
            if not isinstance(link, FromRecipe) or Path(link.reference).suffix != ".pt":
                continue
            trained = isinstance(config, TrainStage)
            what = config.role if trained else "teacher"
            yield _Weights(
                link.reference,
                f"{what} '{Path(link.reference).name}'",
                as_is=not trained or config.when == "never",
                is_base=trained and config.role == "base",
            )


def _detector(file: Path) -> nn.Module:
    from compress.models.checkpoint import load_checkpoint
    from compress.models.inspect import detect_head

    model = load_checkpoint(file)
    try:
        detect_head(model)
    except CompressError as error:
        raise CompressError(f"{file}: {error}") from error
    return model


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
            for number, pattern in enumerate(getattr(step.config, key, ())):
                yield ("stages", step.number - 1, key, number), pattern
