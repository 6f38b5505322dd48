"""What a distillation does beside its terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress.distill.schedule import EpochPlan, Phase, phase_at
from compress.distill.terms import TermSpec


@dataclass(frozen=True)
class Settings:
    """Weights of everything, and ways to mix.

    ``gain`` multiplies all terms, ``labels`` weighs the ground truth, ``clip`` is the gradients'
    largest norm, ``cutmix`` the share of batches whose feature maps are mixed, ``difficulty``
    makes hard images count more, ``soft_targets`` are smoothing and the teacher's share in class
    targets, ``pseudo_labels`` confidence and IoU of what is taken as ground truth.
    """

    gain: float = 1.0
    labels: float = 1.0
    clip: float | None = None
    cutmix: float = 0.0
    difficulty: bool = False
    soft_targets: tuple[float, float] | None = None
    pseudo_labels: tuple[float, float] | None = None
    phases: tuple[Phase, ...] = ()

    def plan(
        self, terms: Sequence[TermSpec], epoch: int, epochs: int, plain_from: int
    ) -> EpochPlan:
        """What counts in ``epoch``; ``plain_from`` is the first epoch without mosaic."""
        phase = phase_at(self.phases, epoch)

        def learns(source: str) -> bool:
            return phase is None or source in phase.learn

        weights = tuple(
            self.gain * term.weight.at(epoch, epochs, plain_from) if learns(term.source) else 0.0
            for term in terms
        )
        labels = self.labels if learns("labels") else 0.0
        reads = self.soft_targets is not None or self.pseudo_labels is not None
        return EpochPlan(
            labels=labels,
            weights=weights,
            temperatures=tuple(
                None if term.temperature is None else term.temperature.at(epoch - term.weight.start)
                for term in terms
            ),
            teaches=any(weights) or (reads and labels > 0),
        )
