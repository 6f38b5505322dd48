"""The recipe's schema: what a user may write, with every default. No torch in here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_ALIGN = 64


class Strict(BaseModel):
    """Unknown keys are faults, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


Share = Annotated[float, Field(gt=0.0, le=1.0)]
Align = Annotated[int, Field(ge=1, le=MAX_ALIGN)]


class TrainArguments(BaseModel):
    """Training arguments of ultralytics; the ones below have defaults of ours.

    Any other training argument of ultralytics may be given too (``lr0``, ``mosaic`` ...). One
    optimizer step is taken a batch, so ``nbs`` belongs to the pipeline.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    epochs: int = Field(gt=0)
    batch: int = Field(16, gt=0)
    # ultralytics' "auto" ignores lr0: a recipe names its optimizer
    optimizer: Literal["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSProp", "MuSGD"] = "AdamW"
    lr0: float = Field(0.001, gt=0)


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
    min_speedup: float | None = Field(None, gt=0, description="median latency of base / result")
    max_size_share: float | None = Field(None, gt=0, description="bytes of result / base")


class CwdLoss(Strict):
    """Channel-wise distillation (Shu et al., 2021) on feature maps."""

    kind: Literal["cwd"]
    at: Literal["neck"] = "neck"
    weight: float = Field(1.0, gt=0)
    temperature: float = Field(1.0, gt=0)


class Distill(Strict):
    """Who teaches what. Teachers: ``teacher``, ``base``, a stage's name or a ``.pt`` file."""

    teachers: list[str] = Field(["teacher"], min_length=1)
    losses: list[CwdLoss] = Field(min_length=1)


class Calibration(Strict):
    """How activation ranges are first found, on images of the train split."""

    method: Literal["minmax", "percentile"] = "percentile"
    percentile: float = Field(99.99, gt=50.0, le=100.0)
    images: int = Field(128, ge=1)


class Quantization(Strict):
    """What becomes INT8. Names in ``float_layers`` are module names; ``*`` matches any text."""

    target: Literal["onnxruntime"] = "onnxruntime"
    calibration: Calibration = Calibration()
    float_layers: list[str] = []


class PruneTarget(Strict):
    """Share of the parent's MACs that is kept."""

    macs: float = Field(gt=0.0, lt=1.0)


class StageBase(Strict):
    """What all stages have."""

    name: str = Field("", pattern=r"^[a-z0-9_\-]*$")

    @model_validator(mode="before")
    @classmethod
    def _name_from_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name"):
            role = values.get("role")
            named = role if isinstance(role, str) and role else values.get("stage", "")
            if values.get("stage") == "train" and not role:
                named = "base"
            return {**values, "name": named}
        return values


class TrainStage(StageBase):
    """Plain training of the recipe's ``model`` (role base) or of its ``teacher``."""

    stage: Literal["train"]
    role: Literal["base", "teacher"] = "base"
    when: Literal["always", "classes_differ"] = "always"
    train: TrainArguments
    accept: CheckpointGates = CheckpointGates()


class PruneStage(StageBase):
    """Remove channels of lowest importance until the target is met, in aligned blocks."""

    stage: Literal["prune"]
    importance: Literal["lamp"] = "lamp"
    target: PruneTarget
    align: Align = 8
    max_pruned: float = Field(0.9, gt=0.0, lt=1.0, description="largest share a layer may lose")
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
    targets: list[Literal["onnxruntime", "tensorrt"]] = Field(["onnxruntime"], min_length=1)
    opset: int = Field(17, ge=13, le=20)
    parity_images: int = Field(8, ge=1)


class BenchStage(StageBase):
    """Latency, file size and mAP of the exported files, all interleaved in one run."""

    stage: Literal["bench"]
    device: Literal["cpu"] = "cpu"
    threads: int = Field(1, ge=1)
    min_seconds: float = Field(5.0, gt=0)
    min_count: int = Field(64, ge=1)
    splits: list[Literal["val", "test"]] = Field(["val"], min_length=1)
    align: Align | None = None
    accept: BenchGates = BenchGates()


Stage = Annotated[
    Union[TrainStage, PruneStage, FinetuneStage, PtqStage, QatStage, ExportStage, BenchStage],
    Field(discriminator="stage"),
]


class Recipe(Strict):
    """A base model, data and a chain of stages."""

    version: Literal[1]
    model: str = Field(min_length=1, description="weights (.pt) or a model yaml")
    teacher: str | None = None
    data: str = Field(min_length=1, description="a data yaml, or 'sample' for the drawn set")
    imgsz: int = Field(640, ge=32, le=4096, multiple_of=32)
    seed: int = Field(0, ge=0)
    device: str = "cpu"
    workers: int = Field(8, ge=0)
    stages: list[Stage] = Field(min_length=1)
