"""Which stages and labels suit a model's task: asked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from compress.data.dataset import check_labels
from compress.errors import CompressError
from compress.models.heads import HeadFacts
from compress.pipeline.job import Job, written_at
from compress.pipeline.links import Step
from compress.recipe.schema import PtqStage, QatStage, distill_of
from compress.recipe.tree import Fault

_LABELLED_BY_TASK = ("segment", "pose", "obb")


def task_faults(
    base: HeadFacts, heads: Mapping[str, HeadFacts], job: Job, steps: Sequence[Step]
) -> Iterator[Fault]:
    """What of a recipe does not suit its base model; ``heads`` are those of all its models."""
    if base.task == "classify":
        yield Fault(
            ("model",),
            "a classifier, and recipes cannot name folders of images yet. Use the library: "
            "compress.prune, compress.models.trainer and compress.models.evaluate take classifiers",
        )
        return
    for reference, head in heads.items():
        if head.task != base.task:
            yield Fault(
                written_at(job.recipe, reference),
                f"made for the task '{head.task}', the recipe's model for '{base.task}'. "
                "Take models of one task",
            )
    for step in steps:
        yield from _stage_faults(base, step)
    if base.task in _LABELLED_BY_TASK:
        try:
            check_labels(job.data, base.task)
        except CompressError as error:
            yield Fault(("data",), f"does not suit a model for '{base.task}': {error}")


def _stage_faults(base: HeadFacts, step: Step) -> Iterator[Fault]:
    """Methods that are made for detection alone."""
    path = ("stages", step.number - 1)
    distill = distill_of(step.config)
    if distill is not None and base.task != "detect":
        yield Fault(
            (*path, *distill[0]),
            f"'{step.name}' cannot distil a model for '{base.task}' yet, only detection. Take out "
            f"`{distill[0][-1]}:` to train it on the labels alone",
        )
    if not isinstance(step.config, (PtqStage, QatStage)):
        return
    if base.task != "detect":
        what = f"a model for '{base.task}' yet, only detection"
    elif base.end_to_end:
        what = "an end-to-end head (YOLOv10, YOLO26) yet"
    else:
        return
    yield Fault(path, f"'{step.name}' cannot quantize {what}. Take this stage out")
