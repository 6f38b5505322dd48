"""A chain of stages run by hand, each with a context of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from small_nets import IMGSZ, Silent

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


@dataclass
class Chain:
    """Stages by name, with what each was run on."""

    data: DataSet
    folder: Path
    ran: dict[str, Ran] = field(default_factory=dict)
    asked: dict[str, tuple[dict[str, Any], dict[str, Artifact]]] = field(default_factory=dict)

    def run(self, name: str, config: dict[str, Any], inputs: dict[str, Artifact]) -> None:
        config = {**config, "name": name}
        self.asked[name] = (config, inputs)
        self.ran[name] = run_stage(config, inputs, self.data, self.folder / name)

    def again(self, name: str) -> Ran:
        """The same stage on the same inputs once more, in other folders."""
        config, inputs = self.asked[name]
        return run_stage(config, inputs, self.data, self.folder / f"{name}-again")

    def checkpoint(self, name: str) -> Artifact:
        return self.ran[name].artifact("checkpoint")


def run_chain(data: DataSet, net_yaml: Path, wide_yaml: Path, folder: Path) -> Chain:
    """train, train (teacher), prune, finetune, ptq, qat, export, bench."""
    chain = Chain(data, folder)
    chain.run("base", {"stage": "train", "train": TRAIN}, {"weights": artifact(net_yaml)})
    teacher = {"stage": "train", "role": "teacher", "train": TRAIN}
    chain.run("teacher", teacher, {"weights": artifact(wide_yaml)})
    prune = {"stage": "prune", "target": {"macs": 0.6}, "align": ALIGN}
    chain.run("prune", prune, {"checkpoint": chain.checkpoint("base")})
    taught = {"teacher.0": chain.checkpoint("teacher")}
    finetune = {"stage": "finetune", "train": TRAIN, "distill": DISTILL}
    chain.run("finetune", finetune, {"checkpoint": chain.checkpoint("prune"), **taught})
    student = {"checkpoint": chain.checkpoint("finetune")}
    chain.run("ptq", {"stage": "ptq"}, student)
    qat = {"stage": "qat", "train": {**TRAIN, "lr0": 0.01}, "distill": DISTILL}
    chain.run("qat", qat, {**student, **taught})
    checkpoints = ("base", "prune", "finetune", "qat")
    inputs = {f"checkpoint.{name}": chain.checkpoint(name) for name in checkpoints}
    export = {"stage": "export", "targets": ["onnxruntime", "tensorrt"]}
    chain.run("export", export, {**inputs, "ranges": chain.ran["qat"].artifact("ranges")})
    graphs = {f"graph.{key}": artifact(path) for key, path in chain.ran["export"].files.items()}
    bench = {"stage": "bench", "min_seconds": 0.2, "min_count": 11, "align": ALIGN}
    chain.run("bench", bench, graphs)
    return chain
