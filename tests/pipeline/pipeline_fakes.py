"""Stages of a few bytes in place of the real ones, and what a run needs around them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.data.dataset import DataSet
from compress.errors import Problem, RecipeError
from compress.pipeline.contract import Artifact, Context, StageFunction, StageResult
from compress.pipeline.files import sha256_of
from compress.pipeline.job import Job, Place
from compress.pipeline.links import Step
from compress.pipeline.plan import PlannedStep, Selection, plan
from compress.pipeline.runner import Outcome, run
from compress.pipeline.stage_table import STAGES, StageKind
from compress.recipe.normalise import normalise
from compress.recipe.schema import Recipe
from compress.recipe.tree import Fault, dotted

MAP = {"base": 0.60, "teacher": 0.70, "prune": 0.40, "finetune": 0.59, "qat": 0.585}
NAMES = ["base", "teacher", "prune", "finetune", "qat", "export", "bench"]


class Lines:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str, important: bool = False) -> None:
        del important
        self.said.append(message)

    @contextmanager
    def task(self, title: str, total: int) -> Any:
        raise AssertionError("no fake stage shows a bar")


Hook = Callable[[str, str, Context], None]
# mAP of each stage by name: a number, or a function of the share that the last prune stage keeps
Maps = Mapping[str, float | Callable[[float], float]]


def no_hook(stage: str, moment: str, context: Context) -> None:
    del stage, moment, context


@dataclass(frozen=True)
class FakeKind(StageKind):
    """A row whose function writes hashes; ``hook`` hears ``begin``, ``between`` and ``end``."""

    hook: Hook = no_hook
    maps: Maps | None = None
    timing: Mapping[str, Any] = field(default_factory=lambda: {"speedup_ci": [1.2, 1.4]})

    def function(self) -> StageFunction:
        def work(config: Any, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
            assert all(sha256_of(item.path) == item.sha256 for item in inputs.values())
            self.hook(self.name, "begin", context)
            digest = hashlib.sha256(f"{self.name}{context.seed}{context.imgsz}".encode())
            digest.update(repr(config.model_dump(exclude={"name", "accept", "distill"})).encode())
            for name, item in sorted(inputs.items()):
                digest.update(name.encode() + item.path.read_bytes())
            files, keep = _files(self.name, inputs), _keep(config, inputs)
            for index, file in enumerate(files.values()):
                if index:
                    self.hook(self.name, "between", context)
                (context.out / file).write_text(f"{file} {keep} {digest.hexdigest()}")
            self.hook(self.name, "end", context)
            metrics = _metrics(config, self.maps or MAP, inputs, keep)
            timed = {"timing": self.timing} if self.name == "prune" else {}
            return StageResult(files, metrics | timed)

        return work


def _keep(config: Any, inputs: Mapping[str, Artifact]) -> float:
    """What the last prune stage kept: files hand it on."""
    if config.stage == "prune":
        return float(config.target.keep)
    files = [item.path.read_text().split() for item in inputs.values()]
    return min((float(text[1]) for text in files if len(text) == 3), default=1.0)


def _files(stage: str, inputs: Mapping[str, Artifact]) -> dict[str, str]:
    if stage == "export":
        names = [name.partition(".")[2] for name in inputs if name.startswith("checkpoint.")]
        return {name: f"{name}.onnx" for name in [*names, "int8-onnxruntime"]}
    if stage == "bench":
        return {"detections": "detections.jpg", "measurements": "bench.json"}
    if stage == "sensitivity":
        return {"sensitivity": "sensitivity.json"}
    if stage == "prune":
        return {"checkpoint": "model.pt", "spec": "model.json"}
    ranges = {"ranges": "ranges.json"} if stage in ("ptq", "qat") else {}
    return {"checkpoint": "model.pt"} | ranges


def _metrics(config: Any, maps: Maps, inputs: Mapping[str, Artifact], keep: float) -> Any:
    def score(name: str) -> float:
        found = maps[name]
        return found(keep) if callable(found) else found

    if config.stage in ("export", "sensitivity"):
        return {}
    if config.stage != "bench":
        measured = {"map50_95": score(config.name), "map50": score(config.name) + 0.2}
        pruned = {"target": {"kept": keep}} if config.stage == "prune" else {}
        return measured | {"params": 1000} | pruned
    rows = [
        {
            "graph": name.partition(".")[2],
            "stage": "qat" if "int8" in name else name.partition(".")[2],
            "precision": "int8" if "int8" in name else "fp32",
            "bytes": 100 if "int8" in name else 1000,
            "speedup": 3.0 if "int8" in name else 1.0,
            "map": {"val": {"map50_95": score("qat" if "int8" in name else name.split(".")[1])}},
        }
        for name in inputs
    ]
    return {"bench": {"rows": rows, "result": "int8-onnxruntime"}}


def fake_table(hook: Hook = no_hook, **fields: Any) -> dict[str, StageKind]:
    """The real table with fake functions; ``fields`` are ``maps`` and ``timing``."""
    given = {name: value for name, value in fields.items() if value is not None}
    return {name: FakeKind(**vars(kind), hook=hook, **given) for name, kind in STAGES.items()}


def recipe(
    changes: Mapping[str, Any] | None = None, only: Sequence[str] = NAMES, **top: Any
) -> Recipe:
    """The whole chain, or ``only`` some; ``changes`` maps a stage's name to fields that it gets."""
    train = {"epochs": 60}
    kd = {"losses": [{"kind": "cwd"}]}
    stages: list[dict[str, Any]] = [
        {"stage": "train", "train": train},
        {"stage": "train", "role": "teacher", "train": train},
        {"stage": "prune", "target": {"macs": 0.4}},
        {"stage": "finetune", "train": train, "distill": kd},
        {"stage": "qat", "train": {"epochs": 10}, "distill": kd},
        {"stage": "export"},
        {"stage": "bench"},
    ]
    for name, stage in zip(NAMES, stages, strict=True):
        stage.update((changes or {}).get(name, {}))
    kept = [stage for name, stage in zip(NAMES, stages, strict=True) if name in only]
    values = {"version": 1, "model": "n.pt", "teacher": "s.pt", "data": "d.yaml", "stages": kept}
    return normalise(Recipe.model_validate(values | top))[0]


def in_recipe(faults: Iterable[Fault]) -> RecipeError:
    """The error of a recipe without lines: each fault with its path."""
    problems = [Problem(0, 0, f"{dotted(fault.path)}: {fault.message}") for fault in faults]
    return RecipeError("r.yaml", problems)


@dataclass
class Desk:
    """One folder with weights, and runs of fake stages in it."""

    folder: Path
    lines: Lines
    reports: list[Path]
    checked: list[list[str]] = field(default_factory=list)

    @classmethod
    def at(cls, folder: Path) -> Desk:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("n.pt", "s.pt"):
            (folder / name).write_text(name)
        return cls(folder, Lines(), [])

    @property
    def place(self) -> Place:
        return Place.of("r", self.folder / "runs" / "r")

    def job(self, of: Recipe | None = None, fingerprint: str = "f" * 64) -> Job:
        files = {name: self.folder / name for name in ("n.pt", "s.pt")}
        return Job(
            recipe=of or recipe(),
            name="r",
            source=self.folder / "r.yaml",
            overrides=("imgsz=320",),
            data=DataSet(self.folder / "d.yaml", {0: "cell"}, {"train": (), "val": ()}),
            fingerprint=fingerprint,
            named={name: Artifact(file, sha256_of(file)) for name, file in files.items()},
            error=in_recipe,
        )

    def run(
        self,
        of: Recipe | None = None,
        selection: Selection | None = None,
        hook: Hook = no_hook,
        maps: Maps | None = None,
        place: Place | None = None,
        job: Job | None = None,
        timing: Mapping[str, Any] | None = None,
    ) -> Outcome:
        self.lines.said.clear()
        table = fake_table(hook, maps=maps, timing=timing)
        place = place or self.place
        job = job or self.job(of)
        return run(job, place, self.lines, self.report, selection, table, check=self.check)

    def check(self, job: Job, steps: Sequence[Step], cache: Path) -> None:
        """Weights of a few bytes cannot be opened: keep what would have been checked."""
        self.checked.append([step.name for step in steps])

    def report(self, folder: Path) -> None:
        self.reports.append(folder)
        for name in ("report.md", "report.html"):
            (folder / name).write_text("report")

    def plan(
        self,
        of: Recipe | None = None,
        selection: Selection | None = None,
        job: Job | None = None,
    ) -> dict[str, PlannedStep]:
        steps = plan(job or self.job(of), self.place, self.lines, selection, fake_table())
        return {step.name: step for step in steps}

    def hashes(self) -> dict[str, str]:
        """Every published file by its path in the run folder."""
        run_folder = self.place.run
        files = [file for file in run_folder.glob("[0-9]*/*") if file.is_file()]
        return {str(file.relative_to(run_folder)): sha256_of(file) for file in files}

    def entry(self, stage: str) -> Path:
        """The one cache entry of a stage kind."""
        (found,) = (self.place.cache / "stages").glob(f"{stage}-*")
        return found
