"""Stage ``activation``: another activation in place of SiLU, everywhere or where it saves time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from bench.loop import Minimum
from bench.profile.layer_times import layer_times
from bench.profile.onnxruntime_times import node_times
from compress.models.activations import exported_block, silu_blocks, with_activation
from compress.models.checkpoint import load_checkpoint
from compress.models.evaluate import evaluate
from compress.models.exportable import exportable
from compress.pipeline.contract import Artifact, Context, StageResult
from compress.recipe.schema import ActivationStage
from compress.stages.batchnorm import settled
from compress.stages.checkpoints import checkpoint_result
from compress.stages.timing import ParentTimer, Timing
from export.float_onnx import export_float

_PROFILE = Minimum(seconds=5.0, count=25)
_PERCENT = 100
_MORE = "an INT8 graph gains more, as SiLU rounds two tensors there that {} does not have"
_IN_INT8 = {
    "relu": _MORE.format("ReLU"),
    "relu6": _MORE.format("ReLU6"),
    "hardswish": "ONNX Runtime has no Hardswish in INT8 and is slower there than with SiLU; "
    "OpenVINO makes it part of the convolution",
}


@dataclass(frozen=True)
class _Choice:
    """The blocks to swap, of so many; ``saved_ms`` of their float layers where it was measured."""

    blocks: tuple[str, ...]
    candidates: int
    saved_ms: float | None = None
    timing: Timing | None = None


def run(config: ActivationStage, inputs: Mapping[str, Artifact], context: Context) -> StageResult:
    """Swap the activations of the chain's checkpoint.

    Raises:
        CompressError: if no block with a SiLU is named, or a pattern matches none.
    """
    parent = load_checkpoint(inputs["checkpoint"].path)
    choice = _chosen(parent, config, context)
    model = with_activation(parent, choice.blocks, config.to)
    batchnorm: dict[str, float] = {}
    if choice.blocks:
        measure = partial(_map, context)
        model, batchnorm = settled(model, config.bn_images, context, measure, "as_swapped")
    timing = {} if choice.timing is None else {"timing": choice.timing.metrics()}
    return checkpoint_result(
        model,
        context,
        metrics={
            "activation": {
                "to": config.to,
                "swapped": list(choice.blocks),
                "candidates": choice.candidates,
            },
            "batchnorm": batchnorm,
            "notes": _notes(config, choice, batchnorm),
            **timing,
        },
    )


def _chosen(parent: nn.Module, config: ActivationStage, context: Context) -> _Choice:
    named = silu_blocks(parent, config.layers, config.ignore)
    if not config.timed:
        return _Choice(tuple(named), len(named))
    saved = _saved_ms(parent, named, config, context)
    blocks = tuple(name for name in named if exported_block(parent, name) in saved)
    if not blocks:
        return _Choice((), len(named))
    folder = context.scratch / "timing"
    threads = config.latency.threads
    timer = ParentTimer(parent, context.imgsz, threads, folder, context.seed, context.progress)
    timing = timer.time(with_activation(parent, blocks, config.to))
    return _Choice(() if timing.slower else blocks, len(named), sum(saved.values()), timing)


def _saved_ms(
    parent: nn.Module, named: Sequence[str], config: ActivationStage, context: Context
) -> dict[str, float]:
    """Exported block -> milliseconds that its float layer loses by the swap, where it does.

    The parent runs twice in the same loop: what its two runs differ by is noise, and no gain.
    """
    folder = context.scratch / "profile"
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.onnx" for name in ("parent", "swapped")}
    export_float(exportable(parent), context.imgsz, files["parent"])
    swapped = with_activation(parent, named, config.to)
    export_float(exportable(swapped), context.imgsz, files["swapped"])
    with context.progress.task("times of layers with either activation", _PERCENT) as bar:
        times = _layer_times(
            {"before": files["parent"], "swapped": files["swapped"], "again": files["parent"]},
            config.latency.threads,
            context.seed,
            bar.advance,
        )
    return paying(
        {exported_block(parent, name) for name in named},
        times["before"],
        times["again"],
        times["swapped"],
    )


def _layer_times(
    files: Mapping[str, Path], threads: int, seed: int, advance: Any
) -> dict[str, dict[str, float]]:
    operators = node_times(files, threads=threads, minimum=_PROFILE, seed=seed, progress=advance)
    return {label: layer_times(found) for label, found in operators.items()}


def paying(
    blocks: set[str],
    before: Mapping[str, float],
    again: Mapping[str, float],
    swapped: Mapping[str, float],
) -> dict[str, float]:
    """Which blocks are faster with the new activation beyond what noise explains, and by how much.

    Args:
        blocks: that were swapped.
        before: block -> milliseconds as it was.
        again: the same net, measured a second time in the same run.
        swapped: block -> milliseconds with the new activation.

    Returns:
        Block -> milliseconds saved, above 0. A block that was not measured saves nothing.
    """
    saved = {}
    for block in sorted(blocks & before.keys() & again.keys() & swapped.keys()):
        least, most = sorted((before[block], again[block]))
        if least - swapped[block] > most - least:
            saved[block] = least - swapped[block]
    return saved


def _map(context: Context, model: nn.Module) -> float:
    """mAP50-95 on val."""
    data, device = context.data.yaml, context.first_device
    return evaluate(model, data, context.imgsz, device=device).map50_95


def _notes(config: ActivationStage, choice: _Choice, batchnorm: Mapping[str, float]) -> list[str]:
    notes = [f"{len(choice.blocks)} of {choice.candidates} SiLUs became {config.to}"]
    if choice.saved_ms is not None and choice.timing is not None:
        timing = choice.timing
        low, high = timing.speedup_ci
        notes.append(
            f"their float layers took {choice.saved_ms:.2f} ms less, one by one; the whole graph "
            f"{timing.parent_ms:.2f} ms before and {timing.ms:.2f} ms after: {timing.speedup:.2f}x "
            f"({low:.2f} to {high:.2f})"
        )
    if config.timed or config.to == "hardswish":
        notes.append(_IN_INT8[config.to])
    if config.timed and not choice.blocks:
        notes.append(
            f"{config.to} does not pay in a float graph on this machine, so the model is unchanged;"
            " `where: everywhere` swaps all the same"
        )
    if batchnorm:
        notes.append(
            f"mAP50-95 without any training {batchnorm['as_swapped']:.3f}, with BatchNorm "
            f"statistics re-estimated {batchnorm['reestimated']:.3f}; the better one was kept"
        )
    return notes
