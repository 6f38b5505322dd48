"""The one table of stages: what each takes and gives, and what it may not follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from compress.pipeline.contract import StageFunction


@dataclass(frozen=True)
class StageKind:
    """One row of the table.

    ``takes``: ``checkpoint`` (the chain's last), ``teachers`` (of its distill section),
    ``checkpoints`` (all of the chain), ``ranges`` (the last, if any), ``graphs`` (of the last
    export), ``weights`` (what the recipe names). ``gives``: files under these names.
    ``version`` changes when the meaning of the stage's output does: old cache entries then miss.
    They also miss when a version of ``libraries`` (distribution names) changes, and, where the
    result is only true ``per_machine``, on another machine.
    """

    name: str
    version: int
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    cannot_follow: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    per_machine: bool = False

    def function(self) -> StageFunction:
        """Import the stage; only here do torch and ultralytics come in."""
        return cast(StageFunction, import_module(f"compress.stages.{self.name}").run)


StageTable = Mapping[str, StageKind]

_QUANTIZED = ("ptq", "qat")
_TORCH = ("torch", "torchvision", "ultralytics", "numpy", "opencv-python")
_PRUNE = (*_TORCH, "torch-pruning")
_ONNX = (*_TORCH, "onnx", "onnxruntime")

STAGES: StageTable = {
    kind.name: kind
    for kind in (
        StageKind(
            "train",
            1,
            takes=("weights",),
            gives=("checkpoint",),
            cannot_follow=("prune", "finetune", *_QUANTIZED),
            libraries=_TORCH,
        ),
        StageKind("prune", 1, ("checkpoint",), ("checkpoint",), _QUANTIZED, libraries=_PRUNE),
        StageKind(
            "finetune",
            1,
            takes=("checkpoint", "teachers"),
            gives=("checkpoint",),
            cannot_follow=_QUANTIZED,
            libraries=_TORCH,
        ),
        StageKind(
            "ptq",
            1,
            takes=("checkpoint",),
            gives=("checkpoint", "ranges"),
            cannot_follow=_QUANTIZED,
            libraries=_ONNX,
        ),
        StageKind(
            "qat",
            1,
            takes=("checkpoint", "teachers"),
            gives=("checkpoint", "ranges"),
            cannot_follow=_QUANTIZED,
            libraries=_ONNX,
        ),
        StageKind("export", 1, ("checkpoints", "ranges"), ("graphs",), libraries=_ONNX),
        StageKind(
            "bench",
            1,
            takes=("graphs",),
            gives=("measurements",),
            needs=("export",),
            libraries=_ONNX,
            per_machine=True,
        ),
    )
}
