"""The recipe's schema: its stages and its top level, with every default. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, Field, model_validator

from compress.recipe.distillation import Distill
from compress.recipe.sections import (
    Alignment,
    BenchGates,
    CheckpointGates,
    Damping,
    Device,
    Importance,
    LatencyRuntime,
    PruneGates,
    PruneTarget,
    Quantization,
    QuantizationNoise,
    Sparsity,
    StageName,
    Strict,
    Target,
    Targets,
    TrainArguments,
    distinct,
)


def default_name(stage: Mapping[str, Any]) -> str:
    """The name of a stage that gives none: its kind; of a ``train`` stage its role."""
    if stage.get("stage") == "train":
        return "teacher" if stage.get("role") == "teacher" else "base"
    return str(stage.get("stage", ""))


def distill_of(stage: Any) -> tuple[tuple[str, ...], Distill] | None:
    """The section of ``stage`` that names teachers, and where in the stage it stands."""
    recover = getattr(stage, "recover", None)
    for path, holder in (((), stage), (("recover",), recover)):
        section = getattr(holder, "distill", None)
        if section is not None:
            return (*path, "distill"), section
    return None


class Trained(Strict):
    """A section with a training that teachers may help."""

    train: TrainArguments
    distill: Distill | None = None

    @model_validator(mode="after")
    def _phases_fill_the_training(self) -> Trained:
        check_phases(self.train, self.distill)
        return self


class Recovery(Trained):
    """Training after each of several pruning steps; with ``distill`` both work jointly."""


def check_phases(train: TrainArguments | None, distill: Distill | None) -> None:
    """Phases must be as long as the training together (ValueError)."""
    if train is None or distill is None or distill.phases is None:
        return
    total = sum(phase.epochs for phase in distill.phases)
    if total != train.epochs:
        raise ValueError(
            f"the phases have {total} epochs, `train.epochs` says {train.epochs}; make them equal"
        )


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
    distill: Distill | None = None
    accept: CheckpointGates = CheckpointGates()

    @model_validator(mode="after")
    def _train_unless_never(self) -> TrainStage:
        if self.train is None and self.when != "never":
            raise ValueError("needs a `train:` section, or `when: never` to take weights as is")
        if self.train is not None and self.when == "never":
            raise ValueError("has a `train:` section that `when: never` would never use")
        if self.train is None and self.distill is not None:
            raise ValueError("has a `distill:` section, but nothing is trained")
        check_phases(self.train, self.distill)
        return self


class SensitivityStage(StageBase):
    """MAP after cutting ``share`` of one layer's channels at a time, on images of the train split.

    A prune stage behind it weighs its scores by what was measured.
    """

    stage: Literal["sensitivity"]
    importance: Importance = "lamp"
    share: float = Field(default=0.5, gt=0, lt=1)
    images: int = Field(default=64, ge=1)
    align: Alignment = 8
    ignore: list[str] = Field(default=[])


class PruneStage(StageBase):
    """Remove channels of lowest importance until the target is met, in aligned blocks."""

    stage: Literal["prune"]
    importance: Importance = "lamp"
    gradient_batches: int = Field(default=10, ge=1, description="for taylor and hessian")
    target: PruneTarget
    latency: LatencyRuntime = LatencyRuntime()
    align: Alignment = 8
    scope: Literal["global", "local"] = "global"
    rank: Literal["score", "score_per_cost"] = "score"
    max_pruned: float = Field(
        default=0.9, gt=0.0, lt=1.0, description="largest share a layer may lose"
    )
    min_channels: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="pattern of module names -> channels that stay"
    )
    ignore: list[str] = Field(default=[])
    steps: int = Field(default=1, ge=1, le=100)
    recover: Recovery | None = None
    bn_images: int = Field(
        default=256, ge=0, description="train images that BatchNorm is re-estimated on; 0: none"
    )
    accept: PruneGates = PruneGates()

    @property
    def timed(self) -> bool:
        """Whether time is measured: for the target, or for the gate."""
        return self.target.resource == "latency" or self.accept.never_slower

    @model_validator(mode="after")
    def _steps_recover(self) -> PruneStage:
        if (self.steps > 1) != (self.recover is not None):
            raise ValueError("`steps` above 1 and a `recover:` section belong together")
        return self

    @model_validator(mode="after")
    def _local_has_no_rank(self) -> PruneStage:
        if self.scope == "local" and self.rank != "score":
            raise ValueError(
                "`scope: local` cuts every layer alike, so `rank` has no meaning there"
            )
        return self


class FinetuneStage(StageBase, Trained):
    """Train the chain's model, with or without distillation.

    Before a prune stage, ``sparsity`` prepares it for being pruned.
    """

    stage: Literal["finetune"]
    sparsity: Sparsity | None = None
    accept: CheckpointGates = CheckpointGates()


class ActivationStage(StageBase):
    """Put another activation in place of SiLU; a finetune behind it recovers what that costs.

    ``where: pays`` swaps only where the exported layer measures faster on ``latency:``.
    """

    stage: Literal["activation"]
    to: Literal["relu", "relu6", "hardswish"] = "relu"
    where: Literal["everywhere", "pays"] = "everywhere"
    layers: list[str] = Field(default=["*"], description="patterns of module names")
    ignore: list[str] = Field(default=[])
    latency: LatencyRuntime = LatencyRuntime()
    bn_images: int = Field(
        default=256, ge=0, description="train images that BatchNorm is re-estimated on; 0: none"
    )
    accept: CheckpointGates = CheckpointGates()

    @property
    def timed(self) -> bool:
        """Whether time is measured to choose layers."""
        return self.where == "pays"


class Int8SensitivityStage(StageBase, Quantization):
    """MAP and noise with one layer quantized at a time, on images of the train split.

    A ptq or qat stage behind it keeps the worst layers float, up to its ``max_float_share``.
    """

    stage: Literal["int8_sensitivity"]
    images: int = Field(default=32, ge=1)


class PtqStage(StageBase, Quantization):
    """Post-training quantization: ranges from calibration."""

    stage: Literal["ptq"]
    bias_correction: bool = Field(
        default=False, description="biases make up for the mean error of rounded weights"
    )
    accept: CheckpointGates = CheckpointGates()


class QatStage(StageBase, Trained, Quantization):
    """Quantization-aware training: ranges and weights are trained under fake quantization."""

    stage: Literal["qat"]
    ranges: Literal["learned", "ema", "fixed"] = Field(
        default="learned", description="of activations: by gradient, moving extremes, calibration"
    )
    weight_scales: Literal["max", "learned"] = "max"
    noise: QuantizationNoise = QuantizationNoise()
    damping: Damping | None = None
    accept: CheckpointGates = CheckpointGates()


# the last opset of each version of the file format
_NEWEST_OPSET = {7: 14, 8: 18, 9: 20}


class NmsSettings(Strict):
    """Of ``head: nms``: boxes that overlap a better one of their class by ``iou`` are dropped."""

    iou: float = Field(default=0.7, gt=0.0, lt=1.0)
    score: float = Field(default=0.25, ge=0.0, lt=1.0)
    max_boxes: int = Field(default=300, ge=1)


class ExportStage(StageBase):
    """Float ONNX of every checkpoint of the chain, INT8 ONNX of the last one for each target."""

    stage: Literal["export"]
    targets: Targets | None = Field(
        default=None, min_length=1, description="by default those that were quantized for"
    )
    opset: int = Field(default=17, ge=13, le=20)
    ir_version: int | None = Field(
        default=None, ge=7, le=11, description="of the files, where a runtime is too old for onnx's"
    )
    head: Literal["raw", "decoded", "nms"] = "decoded"
    keep: int | None = Field(
        default=None, ge=1, description="only the cells with the highest scores are decoded"
    )
    nms: NmsSettings | None = None
    parity_images: int = Field(default=8, ge=1)
    pad_outputs: Alignment | None = Field(
        default=None, description="pad class outputs to this multiple and slice them off again"
    )

    @model_validator(mode="after")
    def _options_have_a_meaning(self) -> ExportStage:
        if self.head == "raw" and self.keep is not None:
            raise ValueError("`head: raw` decodes nothing, so `keep` has no meaning there")
        if self.head != "nms" and self.nms is not None:
            raise ValueError("has an `nms:` section, which only `head: nms` uses")
        least = next(ir for ir, opset in _NEWEST_OPSET.items() if self.opset <= opset)
        if self.ir_version is not None and self.ir_version < least:
            raise ValueError(
                f"`opset: {self.opset}` came with IR version {least}; lower it, or raise "
                "`ir_version`"
            )
        return self


class BundleStage(StageBase):
    """A folder that runs on its own: ONNX, labels, pre- and post-processing, hashes, a runtime."""

    stage: Literal["bundle"]
    target: Target = "onnxruntime"
    score: float = Field(default=0.25, ge=0.0, lt=1.0)
    iou: float = Field(default=0.7, gt=0.0, lt=1.0)
    max_boxes: int = Field(default=300, ge=1)


class BenchStage(StageBase):
    """Latency, file size and mAP of the exported files, all interleaved in one run."""

    stage: Literal["bench"]
    device: Literal["cpu"] = "cpu"
    threads: int = Field(default=1, ge=1)
    min_seconds: float = Field(default=5.0, gt=0)
    min_count: int = Field(default=662, ge=1, description="what p99 needs")
    splits: Annotated[list[Literal["val", "test"]], AfterValidator(distinct)] = Field(
        ["val"], min_length=1
    )
    align: Alignment | None = Field(
        default=None, description="by default that of the last prune stage"
    )
    accept: BenchGates = BenchGates()


Stage = Annotated[
    Union[
        TrainStage,
        SensitivityStage,
        PruneStage,
        FinetuneStage,
        ActivationStage,
        Int8SensitivityStage,
        PtqStage,
        QatStage,
        ExportStage,
        BundleStage,
        BenchStage,
    ],
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
    modules: str | None = Field(
        default=None, min_length=1, description="a Python file with layers of your own; it is run"
    )
    stages: list[Stage] = Field(min_length=1)

    @model_validator(mode="after")
    def _moving_ranges_on_one_device(self) -> Recipe:
        moving = [s.name for s in self.stages if isinstance(s, QatStage) and s.ranges == "ema"]
        if moving and "," in self.device:
            raise ValueError(
                f"'{moving[0]}' has `ranges: ema`, which would move apart on several devices; "
                "take learned ones, or one device"
            )
        return self
