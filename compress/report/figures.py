"""The figures of a run, read from ``run.json``. What a run has not measured is None."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

BASE = "base"
CHECKPOINT = "checkpoint"
_INT8 = "int8-"  # exported files whose name starts so are quantized
_QUANTIZING = ("ptq", "qat")

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Accuracy:
    """Mean average precision, 0 to 1."""

    map50: float | None = None
    map50_95: float | None = None


UNKNOWN = Accuracy()


@dataclass(frozen=True)
class Graph:
    """An exported file. Latencies in milliseconds; ``accuracy`` by split."""

    name: str
    stage: str
    precision: str
    bytes: int | None = None
    latency: Mapping[str, float | None] = field(default_factory=dict)
    fps: float | None = None
    speedup: float | None = None
    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)

    @property
    def p50(self) -> float | None:
        """Median latency."""
        return self.latency.get("p50")

    def on(self, split: str) -> Accuracy:
        """Accuracy on a split."""
        return self.accuracy.get(split, UNKNOWN)


@dataclass(frozen=True)
class Model:
    """A stage that gave a checkpoint, and the exported file that stands for it."""

    name: str
    in_chain: bool  # a teacher is not: no result comes of it
    params: int | None
    macs: int | None
    torch: Accuracy
    graph: Graph | None

    @property
    def p50(self) -> float | None:
        """Median latency of its exported file."""
        return self.graph.p50 if self.graph else None

    @property
    def file_bytes(self) -> int | None:
        """Size of its exported file."""
        return self.graph.bytes if self.graph else None

    def on(self, split: str) -> Accuracy:
        """Accuracy of its exported file on a split."""
        return self.graph.on(split) if self.graph else UNKNOWN

    def drop(self, base: Model | None) -> float | None:
        """mAP50-95 (val) minus that of ``base``: of the exported files, or else in PyTorch."""
        if base is None:
            return None
        exported = difference(self.on("val").map50_95, base.on("val").map50_95)
        if exported is not None:
            return exported
        return difference(self.torch.map50_95, base.torch.map50_95)


def difference(value: float | None, reference: float | None) -> float | None:
    """``value - reference``, or None where one of them is unknown."""
    return None if value is None or reference is None else value - reference


def ratio(value: float | None, reference: float | None) -> float | None:
    """``value / reference``, or None where one of them is unknown."""
    return None if value is None or not reference else value / reference


def stages(run: Run) -> list[Mapping[str, Any]]:
    """The stages that are done, in order."""
    return [stage for stage in run.get("stages") or [] if isinstance(stage, Mapping)]


def metrics(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a stage measured."""
    return stage.get("metrics") or {}


def bench(run: Run) -> Mapping[str, Any]:
    """The last bench result; empty if there is none."""
    found = [measured for stage in stages(run) if (measured := metrics(stage).get("bench"))]
    return found[-1] if found else {}


def graphs(run: Run) -> list[Graph]:
    """Every exported file: those that were measured first, in the order of the bench."""
    measured = [_measured(row) for row in bench(run).get("rows") or []]
    names = {graph.name for graph in measured}
    return measured + [graph for graph in _exported(run) if graph.name not in names]


def models(run: Run) -> list[Model]:
    """Every stage that gave a checkpoint, in order."""
    files = graphs(run)
    return [_model(run, stage, files) for stage in stages(run) if CHECKPOINT in _files(stage)]


def base_model(run: Run) -> Model | None:
    """The model that all others are compared with."""
    return next((model for model in models(run) if model.name == BASE), None)


def result_model(run: Run) -> Model | None:
    """The model of the file that the bench calls its result, or else the last one."""
    found = [model for model in models(run) if model.in_chain]
    result = bench(run).get("result")
    chosen = [model for model in found if model.graph and model.graph.name == result] or found
    return chosen[-1] if chosen else None


def _measured(row: Mapping[str, Any]) -> Graph:
    accuracy = {split: _accuracy(found) for split, found in (row.get("map") or {}).items()}
    return Graph(
        name=str(row.get("graph", "")),
        stage=str(row.get("stage", "")),
        precision=str(row.get("precision", "")),
        bytes=row.get("bytes"),
        latency=row.get("latency_ms") or {},
        fps=row.get("fps"),
        speedup=row.get("speedup"),
        accuracy=accuracy,
    )


def _exported(run: Run) -> Iterator[Graph]:
    quantized = [str(s.get("name", "")) for s in stages(run) if s.get("stage") in _QUANTIZING]
    for stage in stages(run):
        if stage.get("stage") != "export":
            continue
        for name, file in _files(stage).items():
            int8 = name.startswith(_INT8)
            owner = next(reversed(quantized), "") if int8 else name
            yield Graph(name, owner, "int8" if int8 else "fp32", file.get("bytes"))


def _model(run: Run, stage: Mapping[str, Any], files: list[Graph]) -> Model:
    found = metrics(stage)
    own = [graph for graph in files if graph.stage == stage.get("name")]
    own.sort(key=lambda graph: _rank(graph, bench(run).get("result")))
    return Model(
        name=str(stage.get("name", "")),
        in_chain=(stage.get("config") or {}).get("role") != "teacher",
        params=found.get("params"),
        macs=found.get("macs"),
        torch=_accuracy(found),
        graph=own[0] if own else None,
    )


def _rank(graph: Graph, result: str | None) -> tuple[bool, bool, bool]:
    """The result stands for its stage before other measured files, INT8 before float."""
    return graph.name != result, graph.p50 is None, graph.precision != "int8"


def _accuracy(found: Mapping[str, Any]) -> Accuracy:
    return Accuracy(found.get("map50"), found.get("map50_95"))


def _files(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    return stage.get("files") or {}


def splits(run: Run) -> list[str]:
    """The splits on which exported files were measured; at least val."""
    return [
        split
        for split in ("val", "test")
        if split == "val" or any(graph.on(split) != UNKNOWN for graph in graphs(run))
    ]


def training_curves(run: Run) -> dict[str, dict[str, list[float]]]:
    """Stage -> curve -> one value an epoch (NaN: not a number), of each stage that trained."""
    return {
        str(stage.get("name")): {name: list(map(_known, values)) for name, values in found.items()}
        for stage in stages(run)
        if (found := metrics(stage).get("curves"))
    }


def pruned_channels(run: Run) -> dict[str, dict[str, tuple[int, int]]]:
    """Stage -> layer -> output channels before and after, of each stage that pruned."""
    return {
        str(stage.get("name")): {layer: (before, after) for layer, (before, after) in found.items()}
        for stage in stages(run)
        if (found := metrics(stage).get("channels"))
    }


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)
