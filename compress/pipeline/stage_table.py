"""The one table of stages: what each takes and gives, and what it may not follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any, cast

from compress.pipeline.contract import StageFunction


def _never(config: Any) -> bool:
    del config
    return False


def _always(config: Any) -> bool:
    del config
    return True


@dataclass(frozen=True)
class StageKind:
    """One row of the table.

    ``takes``: ``checkpoint`` (the chain's last), ``sensitivity`` (the last that was measured on
    that very checkpoint, if any), ``teachers`` (of its distill section, if it has one),
    ``checkpoints`` (all of the chain), ``ranges`` (the last, if any), ``graphs`` (of the last
    export), ``weights`` (what the recipe names). ``gives``: files under these names.
    ``version`` changes when the meaning of the stage's output does: old cache entries then miss.
    They also miss when a version of ``libraries`` (distribution names) changes, and, where the
    result is only true ``per_machine``, on another machine. ``measured_gates`` are gates that the
    stage itself measures for: unlike others they are part of its key.
    """

    name: str
    version: int
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    cannot_follow: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    per_machine: Callable[[Any], bool] = _never
    measured_gates: tuple[str, ...] = ()

    def function(self) -> StageFunction:
        """Import the stage; only here do torch and ultralytics come in."""
        return cast(StageFunction, import_module(f"compress.stages.{self.name}").run)


StageTable = Mapping[str, StageKind]

_QUANTIZED = ("ptq", "qat")
_TORCH = ("torch", "torchvision", "ultralytics", "numpy", "opencv-python")
_PRUNE = (*_TORCH, "torch-pruning", "onnx", "onnxruntime")  # it may measure time
_ONNX = (*_TORCH, "onnx", "onnxruntime")
_MEASURED = (*_ONNX, "openvino")  # where it is installed, it decides what is timed

STAGES: StageTable = {
    kind.name: kind
    for kind in (
        StageKind(
            "train",
            1,
            takes=("weights", "teachers"),
            gives=("checkpoint",),
            cannot_follow=("sensitivity", "prune", "finetune", *_QUANTIZED),
            libraries=_TORCH,
        ),
        StageKind(
            "sensitivity",
            1,
            takes=("checkpoint",),
            gives=("sensitivity",),
            cannot_follow=_QUANTIZED,
            libraries=_PRUNE,
        ),
        StageKind(
            "prune",
            2,
            takes=("checkpoint", "sensitivity", "teachers"),
            gives=("checkpoint", "spec"),
            cannot_follow=_QUANTIZED,
            libraries=_PRUNE,
            per_machine=attrgetter("timed"),
            measured_gates=("never_slower",),
        ),
        StageKind(
            "finetune",
            1,
            takes=("checkpoint", "teachers"),
            gives=("checkpoint",),
            cannot_follow=_QUANTIZED,
            libraries=(*_TORCH, "torch-pruning"),  # it finds what `sparsity` couples
        ),
        StageKind(
            "activation",
            1,
            takes=("checkpoint",),
            gives=("checkpoint",),
            cannot_follow=_QUANTIZED,
            libraries=_ONNX,
            per_machine=attrgetter("timed"),
        ),
        StageKind(
            "int8_sensitivity",
            1,
            takes=("checkpoint",),
            gives=("int8_sensitivity",),
            cannot_follow=_QUANTIZED,
            libraries=_MEASURED,
            per_machine=_always,
        ),
        StageKind(
            "ptq",
            2,
            takes=("checkpoint", "int8_sensitivity"),
            gives=("checkpoint", "ranges"),
            cannot_follow=_QUANTIZED,
            libraries=_MEASURED,
            per_machine=attrgetter("timed"),
        ),
        StageKind(
            "qat",
            2,
            takes=("checkpoint", "int8_sensitivity", "teachers"),
            gives=("checkpoint", "ranges"),
            cannot_follow=_QUANTIZED,
            libraries=_MEASURED,
            per_machine=attrgetter("timed"),
        ),
        StageKind("export", 2, ("checkpoints", "ranges"), ("graphs",), libraries=_ONNX),
        StageKind("bundle", 1, ("graphs", "ranges"), ("bundle",), needs=("export",)),
        StageKind(
            "bench",
            2,
            takes=("graphs",),
            gives=("measurements",),
            needs=("export",),
            libraries=_MEASURED,
            per_machine=_always,
        ),
    )
}
