"""Which exported file is timed and rated in which runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.entries import ONNXRUNTIME, OPENVINO, label_of

if TYPE_CHECKING:  # the command line plans without torch
    from compress.models.evaluate import Runtime

INT8 = "int8-"
_TIMED_IN: Mapping[str, Runtime] = {
    f"{INT8}{ONNXRUNTIME}": "onnxruntime",
    f"{INT8}{OPENVINO}": "openvino",
}


@dataclass(frozen=True)
class Shot:
    """A file in a runtime. ``stage`` gave its checkpoint; ``parent`` is the float shot beside it.

    ``timed``: it was made for this runtime, which is installed.
    """

    path: Path
    runtime: Runtime
    stage: str
    timed: bool = True
    parent: str | None = None


@dataclass(frozen=True)
class Plan:
    """All shots by label, the baseline first; ``result`` is the label that gates look at."""

    shots: Mapping[str, Shot]
    result: str
    warnings: tuple[str, ...]

    @property
    def timed(self) -> dict[str, Shot]:
        """What is timed."""
        return {label: shot for label, shot in self.shots.items() if shot.timed}

    @property
    def rated(self) -> dict[str, Shot]:
        """What runs here, so that its mAP can be measured."""
        return {
            label: shot
            for label, shot in self.shots.items()
            if shot.runtime == ONNXRUNTIME or shot.timed
        }


def plan_shots(graphs: Mapping[str, Path]) -> Plan:
    """What to measure of an export.

    Args:
        graphs: name -> file, float ones first and in the order of the chain. INT8 files are all of
            its last checkpoint. One for OpenVINO brings its parent there as ``<name>@openvino``.
    """
    owner = [name for name in graphs if not name.startswith(INT8)][-1]
    shots: dict[str, Shot] = {}
    for name, path in graphs.items():
        if not name.startswith(INT8):
            shots[name] = Shot(path, "onnxruntime", name)
            continue
        runtime = _TIMED_IN.get(name)
        if runtime is None:  # TensorRT's: ONNX Runtime can say what it computes, not how fast
            shots[name] = Shot(path, "onnxruntime", owner, timed=False)
        elif find_spec(runtime) is None:
            shots[name] = Shot(path, runtime, owner, timed=False)
        else:
            parent = label_of(owner, runtime)
            shots.setdefault(parent, Shot(graphs[owner], runtime, owner))
            shots[name] = Shot(path, runtime, owner, parent=parent)
    timed = [label for label, shot in shots.items() if shot.timed and shot.parent]
    # one that can only be rated still is what the recipe made: gates must not look at its parent
    rated = [n for n, shot in shots.items() if n.startswith(INT8) and shot.runtime == ONNXRUNTIME]
    return Plan(shots, [*timed, *rated, owner][0], tuple(_warnings(shots)))


def _warnings(shots: Mapping[str, Shot]) -> list[str]:
    absent = [n for n, shot in shots.items() if shot.runtime == OPENVINO and not shot.timed]
    return [
        f"'{name}' was neither timed nor rated: OpenVINO is not installed "
        "(pip install 'yolo-compress[openvino]')"
        for name in absent
    ]
