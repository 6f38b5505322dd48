"""Rules between stages, checked on the recipe as written, so that they come with other faults."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from compress.pipeline.stage_table import STAGES
from compress.recipe.distillation import AVERAGE
from compress.recipe.exports import export_faults
from compress.recipe.lessons import lesson_faults
from compress.recipe.outline import StageOutline, outline
from compress.recipe.tree import Fault, KeyPath, Tree
from compress.recipe.wording import unknown

_MODEL_YAML = (".yaml", ".yml")
_RESERVED = frozenset({"base", "teacher", "stages", AVERAGE})
_MAP_METRICS = ("map50_95", "map50")


def order_faults(tree: Tree) -> list[Fault]:
    """What is wrong between the stages, or between a stage and the recipe's top level.

    Nothing is said about a recipe that has a stage of unknown kind: what it lacks may be that one.
    """
    stages = outline(tree)
    if any(stage.kind not in STAGES for stage in stages):
        return []
    rules = (
        _names,
        _sequence,
        _needs,
        _gates,
        _back_off,
        _sparsity,
        export_faults,
        _teachers,
        lesson_faults,
        _weights,
    )
    return list(chain.from_iterable(rule(tree, stages) for rule in rules))


def _names_teacher(tree: Tree, stages: list[StageOutline]) -> bool:
    """Whether a distill section asks for the recipe's ``teacher``."""
    return any("teacher" in dict(_teacher_references(tree, stage)).values() for stage in stages)


def _names(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    taken: dict[str, StageOutline] = {}
    for stage in stages:
        path = (*stage.path, "name")
        if stage.name in taken:
            first = tree.place(taken[stage.name].path)
            hint = "one is enough" if stage.role else "give this one a `name:` of its own"
            yield Fault(path, f"a stage is named '{stage.name}' already ({first}); {hint}")
        elif stage.role and stage.name != stage.role:
            yield Fault(path, f"a train stage is named by its role: leave out `name: {stage.name}`")
        elif not stage.role and stage.name in _RESERVED:
            yield Fault(path, f"the name '{stage.name}' is reserved; choose another")
        elif stage.name.startswith("int8-"):
            yield Fault(path, "names that begin with 'int8-' are reserved for exported graphs")
        taken.setdefault(stage.name, stage)


def _sequence(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    for i, stage in enumerate(stages):
        banned = STAGES[stage.kind].cannot_follow
        blocker = next((other for other in stages[:i] if other.kind in banned), None)
        if blocker is not None:
            where = tree.place(blocker.path)
            message = f"{stage.kind} cannot follow {blocker.kind} ({where}); move it before that"
            yield Fault(stage.path, message)


def _needs(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    for i, stage in enumerate(stages):
        for kind in STAGES[stage.kind].needs:
            if not any(other.kind == kind for other in stages[:i]):
                yield Fault(stage.path, f"{stage.kind} needs {_a(kind)} stage before it")
        late = next((other for other in stages[i:] if other.role == "base"), None)
        # what train cannot follow is told at the train stage already
        if "checkpoints" in STAGES[stage.kind].takes and late is not None:
            where = tree.place(late.path)
            message = f"{stage.kind} needs a checkpoint; move the base's train ({where}) before it"
            yield Fault(stage.path, message)


def _gates(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    for i, stage in enumerate(stages):
        known = _exported(stages[:i]) if stage.kind == "bench" else _checkpoints(tree, stages, i)
        for path, name in _gate_references(stage):
            if name not in known:
                yield Fault(path, _unknown_stage(tree, stages, name, known))


def _back_off(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    """What is eased is an earlier prune stage, and a gate on mAP says when."""
    del tree
    for i, stage in enumerate(stages):
        accept = stage.raw.get("accept")
        gates = accept if isinstance(accept, dict) else {}
        back_off = gates.get("back_off")
        if not isinstance(back_off, dict):
            continue
        path = (*stage.path, "accept", "back_off")
        prunes = [other.name for other in stages[: i + 1] if other.kind == "prune"]
        name = back_off.get("stage", "prune")
        if not prunes:
            yield Fault(path, "there is no prune stage before it whose target could be eased")
        elif isinstance(name, str) and name not in prunes:
            message = f"no prune stage before it is named '{name}'{unknown(name, prunes)}"
            yield Fault((*path, "stage"), message)
        if not any(gates.get(metric) for metric in _MAP_METRICS):
            wanted = " or ".join(f"`{metric}:`" for metric in _MAP_METRICS)
            yield Fault(path, f"nothing says when to prune less: give a {wanted} gate beside it")


def _sparsity(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    del tree
    for i, stage in enumerate(stages):
        pruned = any(other.kind == "prune" for other in stages[i:])
        if stage.raw.get("sparsity") is not None and not pruned:
            message = (
                "no prune stage comes after it, so what the penalty drives to zero would never be "
                "removed: put one behind this stage, or leave `sparsity:` out"
            )
            yield Fault((*stage.path, "sparsity"), message, at_key=True)


def _teachers(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    for i, stage in enumerate(stages):
        known = _checkpoints(tree, stages, i)
        for path, name in _teacher_references(tree, stage):
            if name in known or name == AVERAGE or name.endswith(".pt"):
                continue
            later = next((other for other in stages[i + 1 :] if other.role == name), None)
            if later is not None and later.role == "teacher":
                message = f"the teacher is trained later ({tree.place(later.path)}); move it before"
                yield Fault(path, f"{message} '{stage.name}' ({tree.place(stage.path)})")
            elif name == "teacher" and not any(other.role == "teacher" for other in stages):
                message = "the recipe has no `teacher:`; give one, such as `teacher: yolov8s.pt`"
                yield Fault(path, message)
            else:
                hint = " (a teacher is an earlier stage or a .pt file)"
                words = _unknown_stage(tree, stages, name, [*known, "teacher"])
                yield Fault(path, words + hint)


def _weights(tree: Tree, stages: list[StageOutline]) -> Iterator[Fault]:
    """A model yaml has no weights, so that model must be trained."""
    trained = {stage.role: stage for stage in stages if stage.role}
    if "teacher" in trained and not tree.get(("teacher",)):
        path = trained["teacher"].path
        yield Fault(path, "trains a teacher, but the recipe has no `teacher:`; name its weights")
    for key, role in (("model", "base"), ("teacher", "teacher")):
        named, stage = tree.get((key,)), trained.get(role)
        untrained = isinstance(named, str) and named.endswith(_MODEL_YAML)
        needed = role == "base" or stage is not None or _names_teacher(tree, stages)
        if untrained and needed and (stage is None or stage.raw.get("when") == "never"):
            todo = f"give it a `stage: train` of `role: {role}`, or name a .pt"
            yield Fault((key,), f"a model yaml has no trained weights: {todo}")


def _checkpoints(tree: Tree, stages: list[StageOutline], end: int) -> list[str]:
    """Names of stages before ``end`` that give a checkpoint, with those the loader puts in."""
    written = [stage.name for stage in stages[:end] if "checkpoint" in STAGES[stage.kind].gives]
    roles = {stage.role for stage in stages}
    implicit = ["base"] if "base" not in roles else []
    if "teacher" not in roles and tree.get(("teacher",)) and _names_teacher(tree, stages):
        implicit.append("teacher")
    return implicit + written


def _exported(stages: list[StageOutline]) -> list[str]:
    """Names of the chain's stages before the last export of ``stages``."""
    exports = [i for i, stage in enumerate(stages) if stage.kind == "export"]
    before = stages[: exports[-1]] if exports else []
    names = [
        stage.name
        for stage in before
        if "checkpoint" in STAGES[stage.kind].gives and stage.role != "teacher"
    ]
    return names if "base" in names else ["base", *names]


def _gate_references(stage: StageOutline) -> Iterator[tuple[KeyPath, str]]:
    accept = stage.raw.get("accept")
    for metric, gate in accept.items() if isinstance(accept, dict) else ():
        if isinstance(gate, dict) and "max_drop" in gate:
            against = gate.get("against", "base")
            if isinstance(against, str):
                yield (*stage.path, "accept", metric, "against"), against


def _teacher_references(tree: Tree, stage: StageOutline) -> Iterator[tuple[KeyPath, str]]:
    # without a teacher in the recipe, the loader gives qat its parent
    default = [] if stage.kind == "qat" and not tree.get(("teacher",)) else ["teacher"]
    for path, distill in stage.sections("distill"):
        teachers = distill.get("teachers", default)
        for i, item in enumerate(teachers if isinstance(teachers, list) else ()):
            place = (*path, "teachers", i)
            if isinstance(item, str):
                yield place, item
            elif isinstance(item, dict) and isinstance(item.get("model"), str):
                yield (*place, "model"), item["model"]


def _unknown_stage(tree: Tree, stages: list[StageOutline], name: str, known: list[str]) -> str:
    named = next((stage for stage in stages if stage.name == name), None)
    if named is None:
        return f"no stage is named '{name}'{unknown(name, known)}"
    where = f"'{name}' ({tree.place(named.path)})"
    if "checkpoint" not in STAGES[named.kind].gives:
        return f"{where} gives no checkpoint{unknown(name, known)}"
    return f"{where} is not an earlier stage that can be referred to here{unknown(name, known)}"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
