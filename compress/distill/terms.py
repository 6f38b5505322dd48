"""Terms of a distillation: a loss, where it looks, and the small layers it needs for that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from compress.distill.bridges import ContextBlock, Generator, projector, relation
from compress.distill.layers import Pair, Where
from compress.distill.losses import features, outputs, task_outputs
from compress.distill.schedule import Source, Temperature, Weight
from compress.models.raw_outputs import RawOutputs

LossOfOutputs = Callable[..., Tensor]
Mix = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TermSpec:
    """A loss as the recipe asks for it. ``name`` is how it shows, ``options`` are the loss' own."""

    kind: str
    name: str
    weight: Weight
    temperature: Temperature | None = None
    levels: tuple[int, ...] | None = None
    at: Where = "neck"
    teacher_at: tuple[int | str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> Source:
        """What it learns from."""
        return "outputs" if self.kind in OUTPUT_LOSSES or self.kind == "crosskd" else "features"

    @property
    def loss_name(self) -> str:
        """Its name among the losses."""
        return f"kd_{self.name}"  # apart from the heads' own: l1_loss, angle_loss


@dataclass(frozen=True)
class Seen:
    """What student and teacher made of one batch of N images.

    ``ours`` and ``theirs`` map layers to features (N, C, H, W). ``boxes``: (M, 5) image index and
    x1, y1, x2, y2 as shares of the image, of the objects in the first ``labelled`` images. ``mix``
    is applied to both sides' maps (CutMix).
    """

    student: RawOutputs
    teacher: RawOutputs
    ours: Mapping[str, Tensor]
    theirs: Mapping[str, Tensor]
    boxes: Tensor
    labelled: int
    mix: Mix | None = None


class Term(nn.Module, ABC):
    """One loss between one student and one teacher. Its parameters are trained."""

    def __init__(self, spec: TermSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def student_layers(self) -> list[str]:
        """Layers of the student whose outputs it needs."""
        return []

    @property
    def teacher_layers(self) -> list[str]:
        """Layers of the teacher whose outputs it needs."""
        return []

    def follow(self, teacher: nn.Module) -> None:
        """Called once the teacher that is really run is known."""

    @abstractmethod
    def forward(self, seen: Seen, temperature: float | None) -> Tensor:
        """The loss of each image, (N,), summed over levels."""


class FeatureTerm(Term):
    """Feature maps, pair by pair, each student's map through a bridge of its own."""

    def __init__(self, spec: TermSpec, pairs: Sequence[Pair]) -> None:
        super().__init__(spec)
        self.pairs = list(pairs)
        self.losses = nn.ModuleList(LEVEL_LOSSES[spec.kind](spec, pair) for pair in pairs)

    @property
    def student_layers(self) -> list[str]:
        """One a pair."""
        return [pair.student for pair in self.pairs]

    @property
    def teacher_layers(self) -> list[str]:
        """One a pair."""
        return [pair.teacher for pair in self.pairs]

    def forward(self, seen: Seen, temperature: float | None) -> Tensor:
        """The loss of each image, (N,), summed over levels."""
        values = [
            loss(
                seen.ours[pair.student].float(),
                seen.theirs[pair.teacher].float(),
                seen,
                temperature,
            )
            for loss, pair in zip(self.losses, self.pairs, strict=True)
        ]
        return torch.stack(values).sum(0)


class LevelLoss(nn.Module, ABC):
    """A feature loss at one level: a bridge for the student's map, then a function of both."""

    mixes = True  # whether CutMix may mix its maps

    def __init__(self, spec: TermSpec, pair: Pair) -> None:
        super().__init__()
        self.options = dict(spec.options)
        self.bridge = self.bridge_of(pair)

    def bridge_of(self, pair: Pair) -> nn.Module:
        """What makes the student's map comparable: a 1x1 convolution where widths differ."""
        return projector(pair.student_width, pair.teacher_width)

    @abstractmethod
    def compare(
        self, ours: Tensor, theirs: Tensor, seen: Seen, temperature: float | None
    ) -> Tensor:
        """The loss of each image, (N,), between bridged maps of one shape."""

    def forward(
        self, ours: Tensor, theirs: Tensor, seen: Seen, temperature: float | None
    ) -> Tensor:
        """The loss of each image, (N,), between maps (N, C, H, W)."""
        bridged = self.bridge(ours)
        if self.mixes and seen.mix is not None:
            bridged, theirs = seen.mix(bridged), seen.mix(theirs)
        return self.compare(bridged, theirs, seen, temperature)


class _Cwd(LevelLoss):
    def compare(
        self, ours: Tensor, theirs: Tensor, seen: Seen, temperature: float | None
    ) -> Tensor:
        del seen
        return features.cwd(ours, theirs, temperature or 1.0)


class _Mimic(LevelLoss):
    def compare(
        self, ours: Tensor, theirs: Tensor, seen: Seen, temperature: float | None
    ) -> Tensor:
        del seen, temperature
        return features.mimic(ours, theirs)


class _Mgd(_Mimic):
    def bridge_of(self, pair: Pair) -> nn.Module:
        width = pair.teacher_width
        return nn.Sequential(super().bridge_of(pair), Generator(width, self.options["masked"]))


class _Pkd(LevelLoss):
    def compare(
        self, ours: Tensor, theirs: Tensor, seen: Seen, temperature: float | None
    ) -> Tensor:
        del seen, temperature
        return features.pkd(ours, theirs)


class _At(LevelLoss):
    def bridge_of(self, pair: Pair) -> nn.Module:
        del pair
        return nn.Identity()  # energies have one channel on both sides

    def compare(
        self, ours: Tensor, theirs: Tensor, seen: Seen, temperature: float | None
    ) -> Tensor:
        del seen, temperature
        return features.at(ours, theirs)


class _Attention(LevelLoss):
    def compare(
        self, ours: Tensor, theirs: Tensor, seen: Seen, temperature: float | None
    ) -> Tensor:
        del seen, temperature
        return features.attention(ours, theirs)


class _Fgd(LevelLoss):
    mixes = False  # boxes say what is foreground

    def __init__(self, spec: TermSpec, pair: Pair) -> None:
        super().__init__(spec, pair)
        self.relation_weight = float(self.options.pop("relation"))
        self.our_context = ContextBlock(pair.teacher_width)
        self.their_context = ContextBlock(pair.teacher_width)

    def compare(
        self, ours: Tensor, theirs: Tensor, seen: Seen, temperature: float | None
    ) -> Tensor:
        """Of images with labels alone; the mean over all is theirs."""
        focal = features.fgd(ours, theirs, seen.boxes, temperature or 0.5, **self.options)
        both = relation(self.our_context(ours), self.their_context(theirs.detach()))
        known = torch.arange(len(focal), device=focal.device) < seen.labelled
        return (focal + self.relation_weight * both) * known * (len(focal) / max(seen.labelled, 1))


class OutputTerm(Term):
    """What the heads predict, in the cells of levels that both have."""

    def __init__(self, spec: TermSpec) -> None:
        super().__init__(spec)
        self.loss = partial(OUTPUT_LOSSES[spec.kind], **spec.options)

    def forward(self, seen: Seen, temperature: float | None) -> Tensor:
        """The loss of each image, (N,)."""
        student, teacher = common_cells(seen.student, seen.teacher, self.spec.levels)
        options = {} if temperature is None else {"temperature": temperature}
        return self.loss(student, teacher, **options)


def common_cells(
    student: RawOutputs, teacher: RawOutputs, levels: Sequence[int] | None
) -> tuple[RawOutputs, RawOutputs]:
    """Both sides' cells of the strides that both have (and that ``levels`` names)."""
    ours, theirs = (set(side.strides.int().tolist()) for side in (student, teacher))
    wanted = (ours & theirs) if levels is None else (ours & theirs & set(levels))
    if wanted == ours == theirs:
        return student, teacher
    strides = torch.tensor(sorted(wanted), device=student.strides.device)
    return (
        student.at(torch.isin(student.strides.int(), strides)),
        teacher.at(torch.isin(teacher.strides.int(), strides)),
    )


LEVEL_LOSSES: Mapping[str, type[LevelLoss]] = MappingProxyType(
    {
        "cwd": _Cwd,
        "mimic": _Mimic,
        "mgd": _Mgd,
        "pkd": _Pkd,
        "fgd": _Fgd,
        "at": _At,
        "attention": _Attention,
    }
)
OUTPUT_LOSSES: Mapping[str, LossOfOutputs] = MappingProxyType(
    {
        "l1": outputs.l1,
        "l2": outputs.l2,
        "kl": outputs.kl,
        "bce": outputs.bce,
        "bckd": outputs.bckd,
        "ld": outputs.ld,
        "objectness": outputs.objectness,
        "focal": outputs.focal,
        "ciou": outputs.ciou,
        "masks": task_outputs.masks,
        "keypoints": task_outputs.keypoints,
        "angle": task_outputs.angle,
    }
)
