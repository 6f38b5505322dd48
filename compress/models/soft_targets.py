"""Softer class targets: smoothed, and mixed with what a teacher scores in the same cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SoftAssigner:
    """Stands in a criterion for its assigner and softens the class targets of foreground cells.

    Targets t of K classes become t * (1 - smoothing) + smoothing * max(t) / K, which keeps the sum
    of a target with one class (label smoothing, Szegedy et al., 2016). Where ``teacher_scores`` are
    set they become (1 - share) * t + share * teacher. Background stays 0.
    """

    def __init__(self, assigner: Any, smoothing: float, share: float) -> None:
        """``smoothing`` and ``share`` are in 0..1; ``assigner`` returns targets as ultralytics'."""
        self.assigner = assigner
        self.smoothing = smoothing
        self.share = share
        # (N, A, K) probabilities of a batch; of more images than have labels the first ones count
        self.teacher_scores: Tensor | None = None

    @classmethod
    def install(cls, criterion: Any, smoothing: float, share: float) -> SoftAssigner:
        """Put one into ultralytics' ``criterion``, this instance only.

        Of an end-to-end criterion into the one-to-many branch: the one whose gradient reaches the
        backbone. The other's targets stay hard.
        """
        branch = getattr(criterion, "one2many", criterion)
        soft = cls(branch.assigner, smoothing, share)
        branch.assigner = soft
        return soft

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What the assigner returns, its target scores (N, A, K) softened."""
        labels, boxes, scores, foreground, objects = self.assigner(*args, **kwargs)
        return labels, boxes, self._soften(scores, foreground), foreground, objects

    def __getattr__(self, name: str) -> Any:
        """Everything else is the assigner's. Only called for what is not found here."""
        if name == "assigner":  # while it is copied: there is none yet
            raise AttributeError(name)
        return getattr(self.assigner, name)

    @torch.no_grad()
    def _soften(self, scores: Tensor, foreground: Tensor) -> Tensor:
        soft = scores
        if self.smoothing:
            spread = scores.amax(-1, keepdim=True) / scores.shape[-1]
            soft = scores * (1 - self.smoothing) + self.smoothing * spread
        if self.share and self.teacher_scores is not None:
            theirs = self.teacher_scores[: len(scores)].to(scores)
            soft = (1 - self.share) * soft + self.share * theirs
        return torch.where(foreground[..., None], soft, scores)
