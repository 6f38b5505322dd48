"""The recipe's schema: what a user may write, with every default. No torch in here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

MAX_ALIGN = 64
_Item = TypeVar("_Item")


class Strict(BaseModel):
    """Unknown keys and wrong types are faults, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _stage_name(name: str) -> str:
    if name and not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name):
        raise ValueError("must be 1 to 40 of a-z, 0-9, '-', '_', beginning with a letter or digit")
    return name


def _device(device: object) -> object:
    if isinstance(device, int) and not isinstance(device, bool):
        return str(device)  # `device: 0`, as ultralytics takes it
    return device


def _known_device(device: str) -> str:
    if not re.fullmatch(r"cpu|mps|cuda|(cuda:)?[0-9]+", device):
        raise ValueError("must be 'cpu', or the number of one GPU such as 0")
    return device


def _distinct(items: list[_Item]) -> list[_Item]:
    twice = [item for i, item in enumerate(items) if item in items[:i]]
    if twice:
        raise ValueError(f"names {twice[0]!r} twice")
    return items


Align = Annotated[int, Field(ge=1, le=MAX_ALIGN)]
Device = Annotated[str, AfterValidator(_known_device), BeforeValidator(_device)]
StageName = Annotated[str, AfterValidator(_stage_name)]


class TrainArguments(BaseModel):
    """Training arguments of ultralytics; the ones below have defaults of ours.

    Any other training argument of ultralytics may be given too (``lr0``, ``mosaic`` ...). One
    optimizer step is taken a batch, so ``nbs`` belongs to the pipeline.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    epochs: int = Field(gt=0)
    batch: int = Field(default=16, gt=0)
    # ultralytics' "auto" ignores lr0: a recipe names its optimizer
    optimizer: Literal["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSProp", "MuSGD"] = "AdamW"
    lr0: float = Field(default=0.001, gt=0, le=1)


class MapGate(Strict):
    """Largest loss of mAP that is accepted, in absolute mAP (0.01 is one point)."""

    max_drop: float = Field(ge=0.0, le=1.0)
    against: str = "base"


class CheckpointGates(Strict):
    """Gates on the mAP of a checkpoint on the val split."""

    map50_95: MapGate | None = None
    map50: MapGate | None = None


class BenchGates(Strict):
    """Gates on the exported result: mAP on the val split, speed and size against the base."""

    map50_95: MapGate | None = None
    map50: MapGate | None = None
    min_speedup: float | None = Field(
        default=None, gt=0, description="median latency of base / result"
    )
    max_size_share: float | None = Field(default=None, gt=0, description="bytes of result / base")


class CwdLoss(Strict):
    """Channel-wise distillation (Shu et al., 2021) on feature maps."""

    kind: Literal["cwd"]
    at: Literal["neck"] = "neck"
    weight: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=1.0, gt=0)


class Distill(Strict):
    """Who teaches what. Teachers: ``teacher``, ``base``, a stage's name or a ``.pt`` file."""

    teachers: Annotated[list[str], AfterValidator(_distinct)] = Field(
        default=["teacher"], min_length=1
    )
    losses: list[CwdLoss] = Field(min_length=1)


class Calibration(Strict):
    """How activation ranges are first found, on images of the train split."""

    method: Literal["minmax", "percentile"] = "percentile"
    percentile: float = Field(default=99.999, gt=50.0, le=100.0)
    images: int = Field(default=128, ge=1)


class Quantization(Strict):
    """What becomes INT8. Names in ``float_layers`` are module names; ``*`` matches any text."""

    target: Literal["onnxruntime"] = "onnxruntime"
    calibration: Calibration = Calibration()
    float_layers: list[str] = []


class PruneTarget(Strict):
    """Share of the parent's MACs that is kept."""

    macs: float = Field(gt=0.0, lt=1.0)


def default_name(stage: Mapping[str, Any]) -> str:
    """The name of a stage that gives none: its kind; of a ``train`` stage its role."""
    if stage.get("stage") == "train":
        return "teacher" if stage.get("role") == "teacher" else "base"
    return str(stage.get("stage", ""))


class StageBase(Strict):
    """What all stages have. ``name`` is the stage's kind (of ``train``: its role) by default."""

    name: StageName = ""

    @model_validator(mode="before")
    @classmethod
    def _name_from_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name") in (None, ""):
            return {**values, "name": default_name(values)}
        return values


class TrainStage(StageBase):
    """Plain training of the recipe's ``model`` (role base) or of its ``teacher``.

    ``when: classes_differ`` trains only weights that were made for other classes than the data's;
    ``when: never`` takes the weights as they are, and has no ``train`` section.
    """

    stage: Literal["train"]
    role: Literal["base", "teacher"] = "base"
    when: Literal["always", "classes_differ", "never"] = "always"
    train: TrainArguments | None = None
    accept: CheckpointGates = CheckpointGates()

    @model_validator(mode="after")
    def _train_unless_never(self) -> TrainStage:
        if self.train is None and self.when != "never":
            raise ValueError("needs a `train:` section, or `when: never` to take weights as is")
        if self.train is not None and self.when == "never":
            raise ValueError("has a `train:` section that `when: never` would never use")
        return self


class PruneStage(StageBase):
    """Remove channels of lowest importance until the target is met, in aligned blocks."""

    stage: Literal["prune"]
    importance: Literal["lamp"] = "lamp"
    target: PruneTarget
    align: Align = 8
    max_pruned: float = Field(
        default=0.9, gt=0.0, lt=1.0, description="largest share a layer may lose"
    )
    ignore: list[str] = []
    accept: CheckpointGates = CheckpointGates()


class FinetuneStage(StageBase):
    """Train the pruned student, with or without distillation."""

    stage: Literal["finetune"]
    train: TrainArguments
    distill: Distill | None = None
    accept: CheckpointGates = CheckpointGates()


class PtqStage(StageBase, Quantization):
    """Post-training quantization: ranges from calibration, weights untouched."""

    stage: Literal["ptq"]
    accept: CheckpointGates = CheckpointGates()


class QatStage(StageBase, Quantization):
    """Quantization-aware training: ranges and weights are trained under fake quantization."""

    stage: Literal["qat"]
    train: TrainArguments
    distill: Distill | None = None
    accept: CheckpointGates = CheckpointGates()


class ExportStage(StageBase):
    """Float ONNX of every checkpoint of the chain, INT8 ONNX of the last one for each target."""

    stage: Literal["export"]
    targets: Annotated[list[Literal["onnxruntime", "tensorrt"]], AfterValidator(_distinct)] = Field(
        ["onnxruntime"], min_length=1
    )
    opset: int = Field(default=17, ge=13, le=20)
    parity_images: int = Field(default=8, ge=1)


class BenchStage(StageBase):
    """Latency, file size and mAP of the exported files, all interleaved in one run."""

    stage: Literal["bench"]
    device: Literal["cpu"] = "cpu"
    threads: int = Field(default=1, ge=1)
    min_seconds: float = Field(default=5.0, gt=0)
    min_count: int = Field(default=662, ge=1, description="what p99 needs")
    splits: Annotated[list[Literal["val", "test"]], AfterValidator(_distinct)] = Field(
        ["val"], min_length=1
    )
    align: Align | None = Field(default=None, description="by default that of the last prune stage")
    accept: BenchGates = BenchGates()


Stage = Annotated[
    Union[TrainStage, PruneStage, FinetuneStage, PtqStage, QatStage, ExportStage, BenchStage],
    Field(discriminator="stage"),
]


class Recipe(Strict):
    """A base model, data and a chain of stages."""

    version: Literal[1]
    model: str = Field(min_length=1, description="weights (.pt) or a model yaml")
    teacher: str | None = Field(default=None, min_length=1)
    data: str = Field(min_length=1, description="a data yaml, or 'sample' for the drawn set")
    imgsz: int = Field(default=640, ge=32, le=4096, multiple_of=32)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Device = "cpu"
    workers: int = Field(default=8, ge=0)
    stages: list[Stage] = Field(min_length=1)
