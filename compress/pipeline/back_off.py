"""Back-off: while the mAP of a recovered model misses its gate, prune less and try again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compress.pipeline.gates import MAP_METRICS, GateResult
from compress.pipeline.links import Step
from compress.recipe.sections import BackOff, PruneTarget

_DIGITS = 6  # of an eased target: enough to tell any two apart, and short to read
_LEAST_CUT = 0.01  # solvers meet a target within 1 %: a smaller cut is none


class BackOffSearch:
    """The steps of a run, whose prune targets are eased from one trial to the next.

    Attributes:
        steps: the run's steps with the targets of the present trial.
        trial: its number; the first counts 1.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        """Begin with the targets as the recipe gives them."""
        self.steps = tuple(steps)
        self.trial = 1
        self._used: dict[str, int] = {}

    def retreat(self, gated: Step, gates: Sequence[GateResult]) -> int | None:
        """Ease the target that ``gated`` names and give the index of its prune step.

        None where no further trial is due: no gate is missed, ``gated`` has no ``back_off``, its
        tries are used up, nothing is left to give back, or what is missed is a gate of speed or
        size, which pruning less would only miss by more.
        """
        back_off = back_off_of(gated)
        missed = [gate.metric for gate in gates if not gate.passed]
        if back_off is None or not missed or not set(missed) <= set(MAP_METRICS):
            return None
        index = [step.name for step in self.steps].index(back_off.stage)
        target = eased(self.steps[index].config.target, back_off.by)
        if target is None or not self.tries_left(gated):
            return None
        self._used[gated.name] = self._used.get(gated.name, 0) + 1
        self.trial += 1
        config = self.steps[index].config.model_copy(update={"target": target})
        again = replace(self.steps[index], config=config)
        self.steps = (*self.steps[:index], again, *self.steps[index + 1 :])
        return index

    def tries_left(self, gated: Step) -> int:
        """How often a miss of ``gated`` may still ease its target."""
        back_off = back_off_of(gated)
        return back_off.tries - self._used.get(gated.name, 0) if back_off else 0


def back_off_of(step: Step) -> BackOff | None:
    """The ``back_off`` section of a step's gates."""
    return getattr(getattr(step.config, "accept", None), "back_off", None)


def eased(target: PruneTarget, by: float) -> PruneTarget | None:
    """``target`` with the share ``by`` (0 to 1) of what it cuts given back, in its own unit.

    None where less than 1 % would still be cut.
    """
    keep = target.keep + by * (1 - target.keep)
    if 1 - keep < _LEAST_CUT:
        return None
    unit, _ = written(target)
    value = 1 / keep if unit == "speedup" else keep
    return PruneTarget.model_validate({unit: round(value, _DIGITS)})


def written(target: PruneTarget) -> tuple[str, float]:
    """The unit that ``target`` is written in, and its value."""
    return next((unit, value) for unit, value in target if value is not None)
