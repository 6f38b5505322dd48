"""Which stages, teachers and labels suit a model's task: asked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from compress.data.dataset import check_labels
from compress.errors import CompressError
from compress.models.heads import HeadFacts
from compress.pipeline.job import Job
from compress.pipeline.links import FromRecipe, FromStage, Step
from compress.recipe.distillation import Distill
from compress.recipe.schema import QatStage, distill_of
from compress.recipe.tree import Fault, KeyPath

_TEACHER = "teacher"  # the stage of the recipe's own teacher, by its name
_LABELLED_BY_TASK = ("segment", "pose", "obb")
_TASK_OF_LOSS = {"masks": "segment", "keypoints": "pose", "angle": "obb"}


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
    for step in steps:
        yield from _stage_faults(base, step)
        yield from _distill_faults(base, heads, job, step)
    tasks = [base.task]
    teacher = heads.get(job.recipe.teacher or "")
    if teacher is not None and any(step.name == _TEACHER for step in steps):
        tasks.append(teacher.task)
    for task in dict.fromkeys(tasks):
        yield from _label_faults(task, job)


def teacher_place(step: Step, index: int) -> KeyPath:
    """Where the recipe names a teacher of ``step``."""
    path, _ = distill_of(step.config) or ((), None)
    return ("stages", step.number - 1, *path, "teachers", index, "model")


def _stage_faults(base: HeadFacts, step: Step) -> Iterator[Fault]:
    """Methods that are not made for every head."""
    if isinstance(step.config, QatStage) and base.end_to_end:
        yield Fault(
            ("stages", step.number - 1),
            f"'{step.name}' cannot train an end-to-end head (YOLOv10, YOLO26) for INT8 yet: the "
            "branch that it learns by is not in the graph. Take `stage: ptq`",
        )


def _distill_faults(
    base: HeadFacts, heads: Mapping[str, HeadFacts], job: Job, step: Step
) -> Iterator[Fault]:
    named = distill_of(step.config)
    if named is None:
        return
    path, distill = named
    section: KeyPath = ("stages", step.number - 1, *path)
    for index, loss in enumerate(distill.losses):
        task = _TASK_OF_LOSS.get(loss.kind)
        if task is not None and task != base.task:
            yield Fault(
                (*section, "losses", index, "kind"),
                f"'{loss.kind}' compares models for '{task}', the recipe's is for '{base.task}'. "
                "Take it out",
            )
    if base.end_to_end and not distill.labels:
        yield Fault(
            (*section, "labels"),
            "an end-to-end head (YOLOv10, YOLO26) is taught in its one-to-many branch; the one "
            "that is exported learns from labels alone. Give them a weight",
        )
    if len(job.data.names) == 1:
        for index, loss in enumerate(distill.losses):
            if loss.kind == "kl" or getattr(loss, "classes", "") == "kl":
                yield Fault(
                    (*section, "losses", index, "kind"),
                    "kl compares how scores are shared among classes, but the data have one class: "
                    "nothing would be learned. Take bce",
                )
    unlabeled = distill.unlabeled
    if unlabeled is not None and unlabeled.pseudo_labels is not None and base.task != "detect":
        yield Fault(
            (*section, "unlabeled", "pseudo_labels"),
            f"they are boxes and classes alone, the recipe's model is for '{base.task}'. Take it "
            "out: teachers still speak on these images",
        )
    for index, teacher in enumerate(distill.teachers):
        if teacher.online and base.task != "detect":
            yield Fault(
                (*section, "teachers", index, "online"),
                f"a teacher of a model for '{base.task}' cannot be trained beside it, only one "
                "for detection. Leave out `online:`",
            )
        head = _head_of(step, index, heads, job)
        if head is not None and head.task != base.task:
            yield from _other_task(base, head, distill, teacher_place(step, index))


def _other_task(
    base: HeadFacts, head: HeadFacts, distill: Distill, place: KeyPath
) -> Iterator[Fault]:
    """A teacher for another task may lend its features, if it has boxes."""
    made = f"made for the task '{head.task}', the recipe's model for '{base.task}'"
    if head.task == "classify":
        yield Fault(place, f"{made}: it has no features of several sizes. Take one of that task")
    elif distill.reads_outputs:
        yield Fault(
            place,
            f"{made}: only losses on features can compare them. Take a teacher of that task, or "
            "leave out the losses on outputs and all else that reads what the teacher predicts",
        )


def _head_of(step: Step, index: int, heads: Mapping[str, HeadFacts], job: Job) -> HeadFacts | None:
    """Of a teacher that is not of the student's own chain; None where it cannot be told."""
    link = step.links.get(f"teacher.{index}")
    if isinstance(link, FromRecipe):
        return heads.get(link.reference)
    if isinstance(link, FromStage) and link.stage == _TEACHER:
        return heads.get(job.recipe.teacher or "")
    return None


def _label_faults(task: str, job: Job) -> Iterator[Fault]:
    if task not in _LABELLED_BY_TASK:
        return
    try:
        check_labels(job.data, task)
    except CompressError as error:
        yield Fault(("data",), f"does not suit a model for '{task}': {error}")
