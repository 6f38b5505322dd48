"""From what a recipe asks for to terms that fit the two nets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.distill.bridges import CrossHead
from compress.distill.layers import match_layers
from compress.distill.losses.outputs import crosskd
from compress.distill.terms import FeatureTerm, OutputTerm, Seen, Term, TermSpec
from compress.errors import CompressError
from compress.models.inspect import HeadBranch, head_branches
from compress.models.raw_outputs import RawOutputs


def build_term(
    spec: TermSpec,
    student: nn.Module,
    teacher: nn.Module,
    classes: Sequence[int] | None,
    imgsz: int,
    device: torch.device,
) -> Term:
    """The term between these two nets, with the bridges that it needs.

    Raises:
        CompressError: the nets have no layers or levels that could be compared.
    """
    if spec.kind == "crosskd":
        return CrossTerm(spec, student, teacher, classes)
    if spec.source == "outputs":
        return OutputTerm(spec)
    pairs = match_layers(
        student, teacher, spec.at, spec.teacher_at, spec.levels, imgsz, device
    )
    return FeatureTerm(spec, pairs)


class CrossTerm(Term):
    """CrossKD: the student's head features through the teacher's last layers."""

    def __init__(
        self,
        spec: TermSpec,
        student: nn.Module,
        teacher: nn.Module,
        classes: Sequence[int] | None,
    ) -> None:
        super().__init__(spec)
        ours, theirs = head_branches(student), head_branches(teacher)
        self.strides = sorted(ours.keys() & theirs.keys() & set(spec.levels or ours))
        if not self.strides:
            raise CompressError(
                f"distill: crosskd finds no stride that both heads have (student {sorted(ours)}, "
                f"teacher {sorted(theirs)})."
            )
        self.ours = [ours[stride] for stride in self.strides]
        self.heads = nn.ModuleList(
            CrossHead([_joint(own, its, branch) for own, its in self._pairs(theirs)])
            for branch in ("boxes", "classes")
        )
        self.index = None if classes is None else list(classes)

    def _pairs(self, theirs: dict[int, HeadBranch]) -> list[tuple[HeadBranch, HeadBranch]]:
        return [(own, theirs[s]) for own, s in zip(self.ours, self.strides, strict=True)]
