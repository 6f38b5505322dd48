"""From what a recipe asks for to terms that fit the two nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.distill.bridges import CrossHead
from compress.distill.layers import match_layers
from compress.distill.losses.outputs import crosskd
from compress.distill.terms import FeatureTerm, OutputTerm, Seen, Term, TermSpec, common_cells
from compress.errors import CompressError
from compress.models.inspect import HeadBranch, detect_head, head_branches, neck_layers
from compress.models.tasks import keypoint_shape


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
    if spec.source == "features":
        pairs = match_layers(student, teacher, spec.at, spec.teacher_at, spec.levels, imgsz, device)
        return FeatureTerm(spec, pairs)
    _check_levels(spec, student, teacher)
    if spec.kind == "crosskd":
        return CrossTerm(spec, student, teacher, classes)
    _check_bins(spec, student, teacher)
    return OutputTerm(_with_keypoints(spec, student, teacher))


def _check_levels(spec: TermSpec, student: nn.Module, teacher: nn.Module) -> None:
    ours, theirs = sorted(neck_layers(student)), sorted(neck_layers(teacher))
    common = [stride for stride in ours if stride in theirs]
    missing = [stride for stride in spec.levels or () if stride not in common]
    if missing or not common:
        raise CompressError(
            f"distill: {spec.kind} compares cells of strides that both heads have: the student's "
            f"are {ours}, the teacher's {theirs}"
            + (f"; `levels` names {missing}. Take them out." if missing else ".")
        )


def _check_bins(spec: TermSpec, student: nn.Module, teacher: nn.Module) -> None:
    ours, theirs = (int(detect_head(model).reg_max) for model in (student, teacher))
    if spec.kind == "ld" and (ours == 1 or ours != theirs):
        raise CompressError(
            f"distill: ld compares distributions over distance bins, but the student's head has "
            f"{ours}, the teacher's {theirs} (YOLO26 has none but one). Use ciou or l1."
        )


def _with_keypoints(spec: TermSpec, student: nn.Module, teacher: nn.Module) -> TermSpec:
    """With the values that a keypoint has.

    Raises:
        CompressError: the two heads write keypoints on different scales.
    """
    if spec.kind != "keypoints":
        return spec
    shape = keypoint_shape(student)
    if shape is None:
        raise CompressError("distill: keypoints are compared, but the student predicts none.")
    ours, theirs = (type(detect_head(model)).__name__ for model in (student, teacher))
    if ours != theirs:
        raise CompressError(
            f"distill: the student's {ours} head and the teacher's {theirs} head write keypoints "
            "on different scales. Leave `keypoints` out, or take a teacher of the same family."
        )
    return replace(spec, options={**spec.options, "values": shape[1]})


class CrossTerm(Term):
    """CrossKD: the student's hidden head features through the teacher's last layers."""

    def __init__(
        self, spec: TermSpec, student: nn.Module, teacher: nn.Module, classes: Sequence[int] | None
    ) -> None:
        """``classes``: for each class of the student the teacher's channel; None where equal."""
        super().__init__(spec)
        ours, theirs = head_branches(student), head_branches(teacher)
        self.strides = sorted(ours.keys() & theirs.keys() & set(spec.levels or ours))
        self.boxes, self.classes = (
            [ours[stride][branch].hidden for stride in self.strides] for branch in (0, 1)
        )
        joints = [
            [_joint(ours[stride][branch], theirs[stride][branch]) for stride in self.strides]
            for branch in (0, 1)
        ]
        self.head = CrossHead(classes=joints[1], boxes=joints[0])
        self.index = None if classes is None else list(classes)

    def follow(self, teacher: nn.Module) -> None:
        """Use this teacher's last convolutions."""
        theirs = head_branches(teacher)
        boxes, classes = ([theirs[s][branch].last for s in self.strides] for branch in (0, 1))
        self.head.follow(classes, boxes)

    @property
    def student_layers(self) -> list[str]:
        """What enters the last convolutions of both branches."""
        return [*self.boxes, *self.classes]

    def forward(self, seen: Seen, temperature: float | None) -> Tensor:
        """The loss of each image, (N,)."""
        del temperature
        scores, boxes = self.head(
            [seen.ours[name].float() for name in self.classes],
            [seen.ours[name].float() for name in self.boxes],
        )
        if self.index is not None:
            scores = scores[:, self.index]
        _, teacher = common_cells(seen.student, seen.teacher, self.strides)
        crossed = replace(teacher, scores=scores, boxes=boxes)
        return crosskd(crossed, teacher, **self.spec.options)


def _joint(ours: HeadBranch, theirs: HeadBranch) -> tuple[int, int, nn.Module]:
    return ours.last.in_channels, theirs.last.in_channels, theirs.last
