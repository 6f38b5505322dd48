"""A chain of stages run by hand when they are asked for, each with a context of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from small_nets import IMGSZ, Silent

import compress.stages.bench_parent
import compress.stages.timing
from bench.loop import Minimum
from compress.data.dataset import DataSet
from compress.pipeline.contract import Artifact, Context
from compress.pipeline.stage_table import STAGES
from compress.recipe.schema import Stage

ALIGN = 4
TRAIN = {"epochs": 1, "batch": 8}
DISTILL = {"losses": [{"kind": "cwd"}]}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def artifact(path: Path) -> Artifact:
    return Artifact(path, sha256(path))


_Step = tuple[dict[str, Any], Callable[[], dict[str, Artifact]]]


@dataclass(frozen=True)
class Ran:
    """What a stage left behind."""

    out: Path
    files: dict[str, Path]
    metrics: dict[str, Any]

    def artifact(self, key: str) -> Artifact:
        return artifact(self.files[key])

    def hashes(self) -> dict[str, str]:
        return {key: sha256(path) for key, path in self.files.items()}


def run_stage(
    config: Mapping[str, Any], inputs: Mapping[str, Artifact], data: DataSet, folder: Path
) -> Ran:
    """Run one stage of a recipe in fresh folders under ``folder``."""
    stage: Any = TypeAdapter(Stage).validate_python(dict(config))
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    context = Context(data, IMGSZ, 0, "cpu", 0, out, scratch, scratch, Silent())
    result = STAGES[stage.stage].function()(stage, inputs, context)
    files = {key: out / name for key, name in result.files.items()}
    return Ran(out, files, dict(result.metrics))


@contextmanager
def _short_timing() -> Iterator[None]:
    """Layers and children are timed all the same, only not for long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress.stages.timing, "_SECONDS", (0.3,))
        for module in (compress.stages.timing, compress.stages.bench_parent):
            patch.setattr(module, "_PROFILE", Minimum(0.1, 5))
        yield


class _Lazy(dict[str, Any]):
    """What is missing is made when it is first asked for."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> Any:
        self[name] = self.make(name)
        return self[name]


@dataclass
class Chain:
    """Stages by name, with what each is run on: as what is ``asked`` it leaves what ``ran``."""

    data: DataSet
    folder: Path
    ran: dict[str, Ran] = field(init=False)
    asked: dict[str, tuple[dict[str, Any], dict[str, Artifact]]] = field(init=False)
    _steps: dict[str, _Step] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ran, self.asked = _Lazy(self._run), _Lazy(self._ask)

    def add(
        self, name: str, config: dict[str, Any], inputs: Callable[[], dict[str, Artifact]]
    ) -> None:
        """A stage that is run on these ``inputs`` as soon as somebody needs it."""
        self._steps[name] = ({**config, "name": name}, inputs)

    def run_all(self) -> Chain:
        for name in self._steps:
            self.ran[name]
        return self

    def _ask(self, name: str) -> tuple[dict[str, Any], dict[str, Artifact]]:
        config, inputs = self._steps[name]
        return config, inputs()

    def _run(self, name: str) -> Ran:
        with _short_timing():
            return run_stage(*self.asked[name], self.data, self.folder / name)

    def again(self, name: str) -> Ran:
        """The same stage on the same inputs once more, in other folders."""
        with _short_timing():
            return run_stage(*self.asked[name], self.data, self.folder / f"{name}-again")

    def checkpoint(self, name: str) -> Artifact:
        return self.ran[name].artifact("checkpoint")

    def ranges(self, name: str) -> Artifact:
        return self.ran[name].artifact("ranges")


def chain_of(data: DataSet, net_yaml: Path, wide_yaml: Path, folder: Path) -> Chain:
    """train, train (teacher), prune, finetune, ptq, qat, export, bench."""
    chain = Chain(data, folder)

    def checkpoints(names: Mapping[str, str]) -> Callable[[], dict[str, Artifact]]:
        return lambda: {key: chain.checkpoint(name) for key, name in names.items()}

    chain.add("base", {"stage": "train", "train": TRAIN}, lambda: {"weights": artifact(net_yaml)})
    teacher = {"stage": "train", "role": "teacher", "train": TRAIN}
    chain.add("teacher", teacher, lambda: {"weights": artifact(wide_yaml)})
    prune = {"stage": "prune", "target": {"macs": 0.6}, "align": ALIGN}
    chain.add("prune", prune, checkpoints({"checkpoint": "base"}))
    finetune = {"stage": "finetune", "train": TRAIN, "distill": DISTILL}
    taught = {"teacher.0": "teacher"}
    chain.add("finetune", finetune, checkpoints({"checkpoint": "prune", **taught}))
    chain.add("ptq", {"stage": "ptq"}, checkpoints({"checkpoint": "finetune"}))
    qat = {"stage": "qat", "train": {**TRAIN, "lr0": 0.01}, "distill": DISTILL}
    chain.add("qat", qat, checkpoints({"checkpoint": "finetune", **taught}))
    names = ("base", "prune", "finetune", "qat")
    exported = checkpoints({f"checkpoint.{name}": name for name in names})
    export = {"stage": "export", "targets": ["onnxruntime", "tensorrt"]}
    chain.add("export", export, lambda: {**exported(), "ranges": chain.ranges("qat")})
    bench = {"stage": "bench", "min_seconds": 0.2, "min_count": 11, "align": ALIGN}
    chain.add("bench", bench, lambda: _graphs(chain.ran["export"]))
    return chain


def _graphs(export: Ran) -> dict[str, Artifact]:
    return {f"graph.{key}": artifact(path) for key, path in export.files.items()}
