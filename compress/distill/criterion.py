"""The loss of a training with teachers: ground truth plus what they say of the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.distill.mixing import CutMix, difficulty, gradient_shares
from compress.distill.pseudo_labels import pseudo_labels, with_pseudo_labels
from compress.distill.schedule import EpochPlan
from compress.distill.settings import Settings
from compress.distill.teachers import Lesson
from compress.distill.terms import Mix, OutputTerm, Seen, TermSpec, common_cells
from compress.models.raw_outputs import RawOutputs, first_images, raw_outputs
from compress.models.soft_targets import SoftAssigner
from compress.models.unlabeled import LABELLED

LABELS = "labels"
TEACHER_LOSS, MUTUAL_LOSS = "kd_teacher", "kd_mutual"


@dataclass(frozen=True)
class _Said:
    """What one teacher said of a batch; ``raw`` is its head's own dictionary."""

    lesson: Lesson
    raw: Any
    outputs: RawOutputs


class DistillationCriterion:
    """Called by ultralytics in place of its loss. No module: nothing of it reaches a checkpoint.

    ``plan`` says what counts in the present epoch. With ``measuring`` set the next batch leaves
    each loss' share of the gradient's norm in ``shares``.
    """

    def __init__(
        self,
        base: Any,
        student: nn.Module,
        lessons: Sequence[Lesson],
        terms: Sequence[TermSpec],
        settings: Settings,
        assigner: SoftAssigner | None,
    ) -> None:
        self.base = base
        self.student = student
        self.lessons = list(lessons)
        self.terms = list(terms)
        self.settings = settings
        self.assigner = assigner
        self.plan: EpochPlan = settings.plan(terms, 0, 1, 1)
        self.measuring = False
        self.shares: dict[str, float] = {}
        if hasattr(base, "update"):
            self.update = base.update

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses (L,), each times the number of images, and their values by name."""
        count = batch["img"].shape[0]
        said = self._listen(batch["img"])
        batch, labelled = self._labelled(batch, said)
        loss, items = self._labels_loss(preds, batch, labelled, said)
        values = self._terms_values(raw_outputs(self.student, preds), batch, labelled, said)
        values |= self._online_values(preds, batch, labelled, said)
        if self.measuring:
            self._measure(loss, values, count)
        items = {**items, **{name: value.detach() for name, value in values.items()}}
        if not values:
            return loss, items
        # ultralytics' loss is a sum over the batch
        return torch.cat([loss, torch.stack(list(values.values())) * count]), items

    def _listen(self, images: Tensor) -> list[_Said]:
        """Ask the teachers, unless nothing of theirs counts in this epoch."""
        if not self.plan.teaches:
            return []
        said = []
        for lesson in self.lessons:
            raw = lesson.predict(images)
            said.append(_Said(lesson, raw, lesson.outputs(raw)))
        return said

    def _labelled(self, batch: dict[str, Any], said: Sequence[_Said]) -> tuple[dict[str, Any], int]:
        """How many images have labels: with pseudo labels, of the weightiest teacher, all."""
        count = batch["img"].shape[0]
        labelled = int(batch.get(LABELLED, count))
        pseudo = self.settings.pseudo_labels
        if pseudo is None or labelled == count or not said:
            return batch, labelled
        teacher = max(said, key=lambda one: one.lesson.spec.weight)
        size = tuple(batch["img"].shape[2:])
        found = pseudo_labels(teacher.outputs.detached(), size, *pseudo)
        return with_pseudo_labels(batch, labelled, found), count

    def _labels_loss(
        self, preds: Any, batch: dict[str, Any], labelled: int, said: Sequence[_Said]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The ground truth's loss, of images that have labels."""
        if self.assigner is not None:
            self.assigner.teacher_scores = _mean_scores(said, labelled)
        kept = preds if labelled == batch["img"].shape[0] else first_images(preds, labelled)
        loss, items = self.base(kept, batch)
        return loss * self.plan.labels, dict(items)

    def _terms_values(
        self, student: RawOutputs, batch: Mapping[str, Any], labelled: int, said: Sequence[_Said]
    ) -> dict[str, Tensor]:
        """The weighted terms by name, each a mean over images and teachers."""
        zero = student.scores.new_zeros((), dtype=torch.float32)
        values = {spec.loss_name: zero for spec in self.terms}
        mix = self._draw_mix(batch["img"].shape[0])
        total = sum(one.lesson.spec.weight for one in said)
        with torch.autocast(student.scores.device.type, enabled=False):
            for one in said:
                seen = one.lesson.seen(student, one.outputs, _corners(batch), labelled, mix)
                share = one.lesson.spec.weight / total
                for number, spec in enumerate(self.terms):
                    if self.plan.weights[number] > 0:
                        value = self._term_value(one.lesson, number, seen)
                        values[spec.loss_name] = values[spec.loss_name] + share * value
        return values

    def _term_value(self, lesson: Lesson, number: int, seen: Seen) -> Tensor:
        each: Tensor = lesson.terms[number](seen, self.plan.temperatures[number])
        if self.settings.difficulty:
            each = each * difficulty(*common_cells(seen.student, seen.teacher, None))
        return self.plan.weights[number] * each.mean()

    def _draw_mix(self, count: int) -> Mix | None:
        if not self.settings.cutmix or torch.rand(()).item() >= self.settings.cutmix:
            return None
        return CutMix.draw(count)

    def _online_values(
        self, preds: Any, batch: dict[str, Any], labelled: int, said: Sequence[_Said]
    ) -> dict[str, Tensor]:
        """What online teachers learn: from the labels, and from the student's outputs."""
        online = [one for one in said if one.lesson.spec.online]
        if not any(lesson.spec.online for lesson in self.lessons):
            return {}
        zero = batch["img"].new_zeros((), dtype=torch.float32)
        labels, mutual = zero, zero
        student = raw_outputs(self.student, preds).detached()
        for one in online:
            assert one.lesson.criterion is not None
            loss, _ = one.lesson.criterion(first_images(one.raw, labelled), batch)
            labels = labels + loss.sum() / labelled
            turned = Seen(one.outputs, student, {}, {}, _corners(batch), labelled)
            for number, term in enumerate(one.lesson.terms):
                if isinstance(term, OutputTerm) and self.plan.weights[number] > 0:
                    each = term(turned, self.plan.temperatures[number])
                    mutual = mutual + self.plan.weights[number] * each.mean()
        return {TEACHER_LOSS: labels, MUTUAL_LOSS: mutual}

    def _measure(self, loss: Tensor, values: Mapping[str, Tensor], count: int) -> None:
        terms = {spec.loss_name: spec.name for spec in self.terms}
        losses = {terms[name]: value * count for name, value in values.items() if name in terms}
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.shares = gradient_shares({LABELS: loss.sum(), **losses}, parameters)
        self.measuring = False


def _mean_scores(said: Sequence[_Said], count: int) -> Tensor | None:
    """Class probabilities of the first ``count`` images, (N, A, K), averaged by weight."""
    if not said:
        return None
    total = sum(one.lesson.spec.weight for one in said)
    scores = [
        one.lesson.spec.weight / total * one.outputs.scores[:count].detach().float().sigmoid()
        for one in said
    ]
    return torch.stack(scores).sum(0).transpose(1, 2)


def _corners(batch: Mapping[str, Any]) -> Tensor:
    """Labelled boxes as (M, 5): image index, x1, y1, x2, y2 as shares of the image."""
    boxes = batch["bboxes"]
    centre, half = boxes[:, :2], boxes[:, 2:4] / 2
    if boxes.shape[1] == 5:  # turned boxes: the upright ones around them
        cos, sin = boxes[:, 4:].cos().abs(), boxes[:, 4:].sin().abs()
        half = half * cos + half.flip(1) * sin
    return torch.cat([batch["batch_idx"].view(-1, 1), centre - half, centre + half], 1).to(
        batch["img"].device
    )
