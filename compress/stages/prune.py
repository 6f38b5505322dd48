"""Stage ``prune``: aligned channels of lowest importance go until the target is met."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from torch import nn

from bench.conv_times.table import load_table
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.evaluate import evaluate
from compress.models.inspect import conv_widths, count_macs, count_params
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.prune.cost import keep_share, total_of
from compress.prune.latency import TOLERANCE as TIME_TOLERANCE
from compress.prune.latency import reach_share
from compress.prune.prune import Exemptions, Importance, Pruned, prune_model
from compress.prune.sensitivity import weights_from
from compress.prune.solver import TOLERANCE, Budget, Rules
from compress.prune.spec import spec_of
from compress.prune.structure import PrunableModel
from compress.recipe.schema import PruneStage
from compress.stages.batchnorm import settled
from compress.stages.checkpoints import checkpoint_result, fit, with_weights
from compress.stages.distillation import distillation
from compress.stages.importance import importance_of
from compress.stages.timing import ParentTimer, Timing

SPEC_FILE = "model.json"
LAYER_TIMES = "layer_times"


def run(config: PruneStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Prune the chain's checkpoint, in one step or in several with training between them.

    Raises:
        CompressError: if the target is out of reach; says what can be reached.
    """
    pruning = _Pruning(config, inputs, context)
    pruned, steps = pruning.in_steps()
    model, batchnorm = pruning.settled(pruned.model)
    (context.out / SPEC_FILE).write_text(json.dumps(spec_of(model), indent=1) + "\n")
    metrics = pruning.metrics(model, pruned)
    return checkpoint_result(
        model,
        context,
        files={"spec": SPEC_FILE},
        metrics={**metrics, "batchnorm": batchnorm, "steps": steps},
    )


class _Pruning:
    """One prune stage at work on its parent."""

    def __init__(
        self, config: PruneStage, inputs: Mapping[str, Artifact], context: Context
    ) -> None:
        self._config, self._inputs, self._context = config, inputs, context
        self._parent = load_checkpoint(inputs["checkpoint"].path)
        self._weights: Mapping[str, float] = {}
        self._time_trials: list[list[float]] = []
        if "sensitivity" in inputs:
            self._weights = weights_from(json.loads(inputs["sensitivity"].path.read_text()))

    def in_steps(self) -> tuple[Pruned, list[dict[str, float]]]:
        """The same share of what is left goes in each step; training follows all but the last."""
        model, keep, count = self._parent, self._config.target.keep, self._config.steps
        steps = []
        for number in range(1, count):
            share = keep ** (number / count)
            model = self._recovered(self._first_cut(model, share, number), number)
            steps.append(self._measured(model, share))
        if self._config.target.resource == "latency":
            pruned = self._cut_to_time(model, keep)
        else:
            pruned = self._cut(model, keep, self._importance(model))
        if count > 1:
            steps.append(self._measured(pruned.model, keep))
        return pruned, steps

    def _first_cut(self, model: nn.Module, keep: float, number: int) -> Path:
        """The net cut in this step, as a file: after a kill the training finds the same again.

        A plan by measured times, or by gradients of a GPU, would come out differently.
        """
        file = self._context.scratch / f"step-{number}" / "cut.pt"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            cut = self._cut(model, keep, self._importance(model))
            save_checkpoint(cut.model, file)
        return file

    def settled(self, model: nn.Module) -> tuple[nn.Module, dict[str, float]]:
        """``model`` with BatchNorm statistics that fit what was cut, and the mAP with each."""
        return settled(model, self._config.bn_images, self._context, self._map, "as_cut")

    def metrics(self, model: nn.Module, pruned: Pruned) -> dict[str, Any]:
        """What became of ``model``, whose time is measured where the recipe wants to know it."""
        config, imgsz = self._config, self._context.imgsz
        precise = config.target.resource == "latency"
        timing = self._timer.time(model, precise) if config.timed else None
        kept = self._kept(model, timing)
        after = conv_widths(model)
        return {
            "channels": {n: [width, after[n]] for n, width in conv_widths(self._parent).items()},
            "macs_kept": count_macs(model, imgsz) / count_macs(self._parent, imgsz),
            "target": {
                "resource": config.target.resource,
                "keep": config.target.keep,
                "kept": kept,
            },
            "left_whole": dict(pruned.left_whole),
            "time_trials": self._time_trials,
            "notes": _notes(kept, config, pruned) + self._unused(),
            **({"timing": timing.metrics()} if timing is not None else {}),
        }

    def _kept(self, model: nn.Module, timing: Timing | None) -> float:
        """The share of the parent's cost that is left, counted or measured on ``model`` itself."""
        if self._config.target.resource == "latency" and timing is not None:
            return timing.share
        count = count_params if self._config.target.resource == "params" else self._macs
        return count(model) / count(self._parent)

    def _unused(self) -> list[str]:
        if self._config.scope == "local" and self._weights:
            return ["`scope: local` cuts all layers alike: the measured sensitivity was not used"]
        return []

    def _macs(self, model: nn.Module) -> int:
        return count_macs(model, self._context.imgsz)

    @cached_property
    def _timer(self) -> ParentTimer:
        context, threads = self._context, self._config.latency.threads
        folder = context.scratch / "timing"
        return ParentTimer(
            self._parent, context.imgsz, threads, folder, context.seed, context.progress
        )

    @cached_property
    def _budget(self) -> Budget:
        """The target as a share of the parent's own cost."""
        resource, keep = self._config.target.resource, self._config.target.keep
        if resource != "latency":
            return keep_share(self._parent, self._context.imgsz, resource, keep)
        cost = self._timer.cost(self._context.shared / LAYER_TIMES)
        whole = total_of(cost, self._parent)
        return Budget("time", cost, keep * whole, whole)

    @cached_property
    def _least(self) -> dict[str, int]:
        """What `max_pruned` leaves of the parent, whatever the number of steps."""
        share = 1 - self._config.max_pruned
        units = PrunableModel(self._parent).units
        return {g.root: ceil(g.width * share) for unit in units for g in unit.groups}

    @cached_property
    def _step(self) -> int:
        """Half a kernel's block less saves no time, so for a time target whole ones go."""
        if self._config.target.resource != "latency":
            return 1
        table = load_table(self._context.shared / LAYER_TIMES, self._config.latency.threads)
        return table.step if table is not None else 1

    def _importance(self, model: nn.Module) -> Importance:
        config = self._config
        return importance_of(
            config.importance, model, self._context, config.gradient_batches, self._weights
        )

    def _cut(self, model: nn.Module, keep: float, importance: Importance) -> Pruned:
        """``model`` cut until ``keep`` of the parent's cost remains."""
        config, budget = self._config, self._budget
        return prune_model(
            model,
            replace(budget, limit=budget.whole * keep),
            Rules(config.align, config.max_pruned, config.scope, config.rank, self._step),
            importance,
            Exemptions(config.ignore, config.min_channels, self._least if config.steps > 1 else {}),
        )

    def _cut_to_time(self, model: nn.Module, keep: float) -> Pruned:
        """Cut by the layers' times, and again until the whole net's measured time is right."""
        importance = self._importance(model)
        reached = reach_share(
            keep,
            plan=lambda share: self._cut(model, share, importance),
            measure=lambda pruned: self._timer.time(pruned.model, precise=True).share,
        )
        self._time_trials = [list(trial) for trial in reached.trials]
        return reached.model

    def _recovered(self, cut: Path, number: int) -> nn.Module:
        recover = self._config.recover
        assert recover is not None  # the recipe's schema ties it to `steps`
        context = replace(self._context, scratch=cut.parent)
        extensions = distillation(recover.distill, self._inputs, context)
        title = f"{self._config.name} {number}/{self._config.steps}"
        training = fit(load_checkpoint(cut), recover.train, context, title, extensions)
        return with_weights(load_checkpoint(cut), training)

    def _measured(self, model: nn.Module, keep: float) -> dict[str, float]:
        imgsz = self._context.imgsz
        share = count_macs(model, imgsz) / count_macs(self._parent, imgsz)
        return {"keep": keep, "macs_kept": share, "map50_95": self._map(model)}

    def _map(self, model: nn.Module) -> float:
        """mAP50-95 on val."""
        context = self._context
        data, device = context.data.yaml, context.first_device
        return evaluate(model, data, context.imgsz, device=device).map50_95


def _notes(kept: float, config: PruneStage, pruned: Pruned) -> list[str]:
    target = config.target
    notes = [f"{name} was left whole: {why}" for name, why in pruned.left_whole.items()]
    if pruned.plan.narrow:
        notes.append(
            f"narrower than {config.align} channels and left as they are: "
            f"{', '.join(pruned.plan.narrow)}; a bench with this alignment will name them"
        )
    timed = target.resource == "latency"
    if abs(kept / target.keep - 1) > (TIME_TOLERANCE if timed else TOLERANCE):
        what = {"macs": "MACs", "params": "parameters", "latency": "time"}[target.resource]
        why = (
            "time was measured and the plan corrected as often as is worth it"
            if timed
            else f"no plan in blocks of {config.align} channels was found that comes closer"
        )
        notes.append(
            f"{kept:.1%} of the {what} are left where {target.keep:.1%} were asked for: {why}"
        )
    return notes
