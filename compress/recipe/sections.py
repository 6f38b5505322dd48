"""What stands inside a stage of a recipe: its sections and values, with every default. No torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from bench.alignment.profiles import ALIGNMENTS

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
    numbers = re.sub(r"\s", "", device).split(",")
    if len(numbers) > 1 and all(re.fullmatch(r"[0-9]+", number) for number in numbers):
        return ",".join(str(number) for number in distinct([int(number) for number in numbers]))
    if not re.fullmatch(r"cpu|mps|cuda|(cuda:)?[0-9]+", device):
        raise ValueError("must be 'cpu', or the number of one GPU such as 0, or of several: 0,1")
    return device


def distinct(items: list[_Item]) -> list[_Item]:
    """``items``, unless one of them is there twice (ValueError)."""
    twice = [item for i, item in enumerate(items) if item in items[:i]]
    if twice:
        raise ValueError(f"names {twice[0]!r} twice")
    return items


def _one_or_several(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _known_alignment(align: object) -> object:
    if not isinstance(align, str):
        return align
    if align not in ALIGNMENTS:
        raise ValueError(f"must be a whole number or a device: {', '.join(ALIGNMENTS)}")
    return ALIGNMENTS[align].multiple


Align = Annotated[int, Field(ge=1, le=MAX_ALIGN)]
Alignment = Annotated[Align, BeforeValidator(_known_alignment)]
Target = Literal["onnxruntime", "tensorrt", "openvino"]
Targets = Annotated[list[Target], AfterValidator(distinct)]
Importance = Literal["lamp", "l1", "l2", "bn_scale", "group_norm", "taylor", "hessian", "random"]
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


class BackOff(Strict):
    """Prune less and try again while the gate is missed: ``by`` of what was cut is given back."""

    stage: str = Field(default="prune", description="the prune stage whose target is eased")
    by: float = Field(default=0.25, gt=0, lt=1)
    tries: int = Field(default=3, ge=1, le=20)


class MapGate(Strict):
    """Largest loss of mAP that is accepted, in absolute mAP (0.01 is one point)."""

    max_drop: float = Field(ge=0.0, le=1.0)
    against: str = "base"


class CheckpointGates(Strict):
    """Gates on the mAP of a checkpoint on the val split."""

    map50_95: MapGate | None = None
    map50: MapGate | None = None
    back_off: BackOff | None = None


class PruneGates(CheckpointGates):
    """Also: the exported file must not be slower than its parent's."""

    never_slower: bool = True


class BenchGates(Strict):
    """Gates on the exported result: mAP on the val split, speed and size against the base."""

    map50_95: MapGate | None = None
    map50: MapGate | None = None
    min_speedup: float | None = Field(
        default=None, gt=0, description="median latency of base / result"
    )
    never_slower: bool = Field(
        default=True, description="an INT8 file must not be slower than its float parent"
    )
    max_size_share: float | None = Field(default=None, gt=0, description="bytes of result / base")
    back_off: BackOff | None = None


class Calibration(Strict):
    """How activation ranges are first found, on images of the train split."""

    method: Literal["minmax", "percentile", "mse", "entropy"] = "percentile"
    percentile: float = Field(default=99.999, gt=50.0, le=100.0)
    images: int = Field(default=128, ge=1)


class Quantization(Strict):
    """What becomes INT8. Names in ``float_layers`` are module names; ``*`` matches any text.

    ``target``: the runtimes whose rounding is simulated; of several, every point that one of them
    rounds. ``quantize_head``: also the last convolutions of the head, which stay float otherwise.
    """

    target: Annotated[Targets, BeforeValidator(_one_or_several)] = Field(
        ["onnxruntime"], min_length=1
    )
    calibration: Calibration = Calibration()
    float_layers: list[str] = []
    first_conv: Literal["auto", "float", "int8"] = Field(
        default="int8", description="auto: whichever measures faster on the first target"
    )
    quantize_head: bool = False
    equalize: bool = Field(default=False, description="cross-layer equalization before rounding")
    weight_bits: int = Field(default=8, ge=2, le=8)
    max_float_share: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="share of the layers that may stay float so that the gate holds",
    )

    @property
    def timed(self) -> bool:
        """Whether time is measured to choose what stays float."""
        return self.first_conv == "auto"


class QuantizationNoise(Strict):
    """What a training step rounds.

    ``full``: everything. ``share``: a random ``share`` of each weight (Fan et al., Quant-Noise,
    2020). ``uniform``: weights get noise of half a step in place of rounding. Activations are
    always rounded.
    """

    kind: Literal["full", "share", "uniform"] = "full"
    share: float = Field(default=0.5, gt=0.0, lt=1.0)


class Damping(Strict):
    """A penalty on weights that swing between two integers (Nagel et al., 2022).

    Its weight rises from 0 to ``weight`` by a half-cosine, beginning at ``start`` of the run.
    """

    weight: float = Field(default=0.1, gt=0.0)
    start: float = Field(default=0.25, ge=0.0, lt=1.0)


class PruneTarget(Strict):
    """Exactly one of: a share of the parent's MACs, parameters or time to keep, or a speed-up.

    ``speedup`` is a factor of MACs (2.5 keeps 0.4 of them, as papers count it); ``latency`` is
    time as measured on the runtime and machine of the stage's ``latency:`` section.
    """

    macs: float | None = Field(default=None, gt=0.0, lt=1.0)
    params: float | None = Field(default=None, gt=0.0, lt=1.0)
    latency: float | None = Field(default=None, gt=0.0, lt=1.0)
    speedup: float | None = Field(default=None, gt=1.0, le=100.0)

    @model_validator(mode="after")
    def _exactly_one(self) -> PruneTarget:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(
                "must name exactly one of macs, params, latency, speedup"
                + (f"; it names {', '.join(given)}" if given else "")
            )
        return self

    @property
    def resource(self) -> Literal["macs", "params", "latency"]:
        """What the target is a share of."""
        if self.params is not None:
            return "params"
        return "latency" if self.latency is not None else "macs"

    @property
    def keep(self) -> float:
        """The share that is kept, above 0 and below 1."""
        if self.speedup is not None:
            return 1 / self.speedup
        return next(v for v in (self.macs, self.params, self.latency) if v is not None)


class LatencyRuntime(Strict):
    """What a ``latency`` target and the never-slower gate are measured on."""

    runtime: Literal["onnxruntime"] = "onnxruntime"
    threads: int = Field(default=1, ge=1)


class Sparsity(Strict):
    """A penalty that drives channels to zero before they are pruned.

    ``bn_scale``: L1 on BatchNorm's scales (Liu et al., Network slimming, 2017). ``group_lasso``:
    the norms of coupled channels (Fang et al., DepGraph, 2023). The weight falls linearly from
    ``weight`` to ``weight * final`` over the run.
    """

    kind: Literal["bn_scale", "group_lasso"]
    weight: float = Field(gt=0, le=1)
    final: float = Field(default=0.05, ge=0, le=1)
