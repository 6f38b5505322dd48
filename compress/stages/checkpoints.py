"""What all stages that give a checkpoint do: train, measure, save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from compress.models.build import require_classes
from compress.models.checkpoint import save_checkpoint
from compress.models.evaluate import evaluate
from compress.models.inspect import count_macs, count_params
from compress.models.trainer import Training, TrainingExtension, TrainingJob, train
from compress.pipeline.contract import Context, StageResult
from compress.recipe.sections import TrainArguments

CHECKPOINT_FILE = "model.pt"


def fit(
    student: nn.Module,
    arguments: TrainArguments,
    context: Context,
    title: str,
    extensions: Sequence[TrainingExtension] = (),
) -> Training:
    """Train ``student`` on the recipe's data; goes on where a killed run stopped."""
    job = TrainingJob(
        data=context.data.yaml,
        images=len(context.data.splits["train"]),
        imgsz=context.imgsz,
        seed=context.seed,
        device=context.device,
        workers=context.workers,
        folder=context.scratch,
        arguments=arguments.model_dump(),
    )
    return train(student, job, context.progress, title, extensions)


def check_classes(model: nn.Module, context: Context, what: str) -> None:
    """Refuse a model whose classes are not the data's."""
    require_classes(model, context.data.names, what)


def checkpoint_result(
    model: nn.Module,
    context: Context,
    measured: nn.Module | None = None,
    metrics: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> StageResult:
    """Save ``model`` and measure it on the val split (``measured`` in its place, where given)."""
    save_checkpoint(model, context.out / CHECKPOINT_FILE)
    with context.progress.task("mAP on val", 1) as bar:
        accuracy = evaluate(
            measured if measured is not None else model,
            context.data.yaml,
            context.imgsz,
            device=context.first_device,
        )
        bar.advance()
    return StageResult(
        files={"checkpoint": CHECKPOINT_FILE, **(files or {})},
        metrics={
            "params": count_params(model),
            "macs": count_macs(model, context.imgsz),
            "map50": accuracy.map50,
            "map50_95": accuracy.map50_95,
            "map_subject": accuracy.subject,
            **(metrics or {}),
        },
    )


def with_weights(model: nn.Module, training: Training) -> nn.Module:
    """``model`` with the trained weights, in place."""
    model.load_state_dict(training.weights)
    return model
