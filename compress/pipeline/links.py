"""Which file of which stage goes into which other stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.errors import CompressError
from compress.pipeline.contract import Artifact
from compress.pipeline.stage_table import STAGES, StageKind, StageTable
from compress.recipe.distillation import AVERAGE
from compress.recipe.schema import Recipe, distill_of


@dataclass(frozen=True)
class FromRecipe:
    """An input that the recipe names: weights, a model yaml or a teacher's ``.pt``."""

    reference: str


@dataclass(frozen=True)
class FromImages:
    """Images without labels that a distill section names: a folder, or a list of them."""

    reference: str


@dataclass(frozen=True)
class FromStage:
    """A file that an earlier stage gives; ``file`` None stands for all of its files."""

    stage: str
    file: str | None


Link = FromRecipe | FromImages | FromStage


@dataclass(frozen=True)
class Step:
    """A stage of one recipe with its place in the chain. ``number`` counts from 1."""

    number: int
    config: Any
    kind: StageKind
    links: Mapping[str, Link]

    @property
    def name(self) -> str:
        """The stage's name in the recipe."""
        return str(self.config.name)

    @property
    def folder(self) -> str:
        """The stage's folder inside the run folder."""
        return f"{self.number:02d}-{self.name}"

    @property
    def advances(self) -> bool:
        """Whether its checkpoint becomes the chain's last; a teacher stands beside the chain."""
        return "checkpoint" in self.kind.gives and getattr(self.config, "role", "") != "teacher"

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the stages that it takes from, each once."""
        stages = [link.stage for link in self.links.values() if isinstance(link, FromStage)]
        return tuple(dict.fromkeys(stages))


@dataclass(frozen=True)
class Input:
    """A link with its file found. ``origin`` is ``<stage>/<key>`` or a path, for the record."""

    artifact: Artifact
    origin: str


def link_steps(recipe: Recipe, table: StageTable = STAGES) -> tuple[Step, ...]:
    """The recipe's stages, each linked to what it takes.

    Raises:
        CompressError: a stage takes what no stage before it gives.
    """
    steps: list[Step] = []
    for number, config in enumerate(recipe.stages, start=1):
        kind = table[config.stage]
        links: dict[str, Link] = {}
        for taken in kind.takes:
            links |= _LINKERS[taken](recipe, config, steps)
        steps.append(Step(number, config, kind, links))
    return tuple(steps)


def resolve_inputs(
    step: Step,
    named: Mapping[str, Artifact],
    outputs: Mapping[str, Mapping[str, Artifact]],
) -> dict[str, Input]:
    """The files behind the links of ``step``.

    ``named`` maps the recipe's references, ``outputs`` the finished stages' names to their files.
    """
    inputs: dict[str, Input] = {}
    for name, link in step.links.items():
        if isinstance(link, (FromRecipe, FromImages)):
            artifact = named[link.reference]
            inputs[name] = Input(artifact, str(artifact.path))
        elif link.file is None:
            for file, artifact in outputs[link.stage].items():
                inputs[f"{name}.{file}"] = Input(artifact, f"{link.stage}/{file}")
        else:
            inputs[name] = Input(outputs[link.stage][link.file], f"{link.stage}/{link.file}")
    return inputs


def _weights(recipe: Recipe, config: Any, before: Sequence[Step]) -> dict[str, Link]:
    del before
    if config.role == "base":
        return {"weights": FromRecipe(recipe.model)}
    if recipe.teacher is None:
        raise CompressError(f"'{config.name}' trains the teacher, but the recipe names no teacher:")
    return {"weights": FromRecipe(recipe.teacher)}


def _checkpoint(recipe: Recipe, config: Any, before: Sequence[Step]) -> dict[str, Link]:
    del recipe
    chain = [step for step in before if step.advances]
    return {"checkpoint": FromStage(_last(chain, config, "a checkpoint").name, "checkpoint")}


def _checkpoints(recipe: Recipe, config: Any, before: Sequence[Step]) -> dict[str, Link]:
    del recipe
    chain = [step for step in before if step.advances]
    _last(chain, config, "a checkpoint")
    return {f"checkpoint.{step.name}": FromStage(step.name, "checkpoint") for step in chain}


def _teachers(recipe: Recipe, config: Any, before: Sequence[Step]) -> dict[str, Link]:
    """What the distill section names: its teachers, and images without labels."""
    del recipe
    stages = {step.name for step in before if "checkpoint" in step.kind.gives}
    section = distill_of(config)
    if section is None:
        return {}
    distill = section[1]
    links: dict[str, Link] = {
        f"teacher.{index}": FromStage(teacher.model, "checkpoint")
        if teacher.model in stages
        else FromRecipe(teacher.model)
        for index, teacher in enumerate(distill.teachers)
        if teacher.model != AVERAGE
    }
    if distill.unlabeled is not None:
        links["unlabeled"] = FromImages(distill.unlabeled.images)
    return links


def _sensitivity(recipe: Recipe, config: Any, before: Sequence[Step]) -> dict[str, Link]:
    return _measured_on_the_last("sensitivity", recipe, config, before)


def _int8_sensitivity(recipe: Recipe, config: Any, before: Sequence[Step]) -> dict[str, Link]:
    return _measured_on_the_last("int8_sensitivity", recipe, config, before)


def _measured_on_the_last(
    what: str, recipe: Recipe, config: Any, before: Sequence[Step]
) -> dict[str, Link]:
    """What was measured on an earlier checkpoint says nothing of the chain's last."""
    checkpoint = _checkpoint(recipe, config, before)["checkpoint"]
    measured = [
        step
        for step in before
        if what in step.kind.gives and step.links["checkpoint"] == checkpoint
    ]
    return {what: FromStage(measured[-1].name, what)} if measured else {}


def _ranges(recipe: Recipe, config: Any, before: Sequence[Step]) -> dict[str, Link]:
    del recipe, config
    quantized = [step for step in before if "ranges" in step.kind.gives]
    return {"ranges": FromStage(quantized[-1].name, "ranges")} if quantized else {}


def _graphs(recipe: Recipe, config: Any, before: Sequence[Step]) -> dict[str, Link]:
    del recipe
    exports = [step for step in before if "graphs" in step.kind.gives]
    return {"graph": FromStage(_last(exports, config, "exported graphs").name, None)}


def _last(steps: Sequence[Step], config: Any, what: str) -> Step:
    if not steps:
        raise CompressError(f"'{config.name}' needs {what}, but no stage before it gives any")
    return steps[-1]


_LINKERS: Mapping[str, Callable[[Recipe, Any, Sequence[Step]], dict[str, Link]]] = {
    "weights": _weights,
    "checkpoint": _checkpoint,
    "checkpoints": _checkpoints,
    "sensitivity": _sensitivity,
    "int8_sensitivity": _int8_sensitivity,
    "teachers": _teachers,
    "ranges": _ranges,
    "graphs": _graphs,
}
