"""Training on stock ultralytics: any student module, extra losses, exact resume.

The trainer is ultralytics' own, subclassed. What a stage adds (distillation, quantization) comes
as a ``TrainingExtension``; hooks are set on the live model only and taken off at the end, so
nothing of it reaches a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils.torch_utils import unwrap_model

from compress.errors import CompressError
from compress.models.inspect import is_end_to_end
from compress.models.quiet import quiet_ultralytics
from compress.models.tasks import task_of
from compress.models.training_state import (
    best_weights,
    capture,
    read_state,
    restore,
    seed_epoch,
    write_state,
)
from compress.progress import Progress, Task


STOCK_NORM = 10.0  # what ultralytics clips gradients to


@dataclass(frozen=True)
class TrainingJob:
    """What to train on, and how.

    ``data`` is a data yaml, for a classifier the folder that holds ``train`` and ``val``.
    ``images`` is the size of the train split, ``folder`` outlives a kill, ``arguments`` are
    training arguments of ultralytics.
    """

    data: Path
    images: int
    imgsz: int
    seed: int
    device: str
    workers: int
    folder: Path
    arguments: Mapping[str, Any]


@dataclass
class Training:
    """Result: float32 averaged weights of the best epoch, and the curves of all epochs."""

    weights: dict[str, torch.Tensor]
    curves: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingRun:
    """What an extension may know of the training it is part of.

    ``batches`` an epoch, ``plain_from`` is the first epoch without mosaic (``epochs`` if there is
    none), ``average`` gives the moving average of the student, ``arguments`` are ultralytics'.
    """

    epochs: int
    batches: int
    plain_from: int
    device: torch.device
    average: Callable[[], nn.Module]
    arguments: Any


class TrainingExtension:
    """What a stage may add to a training. Every method does nothing by default."""

    def prepare(self, model: nn.Module, device: torch.device, imgsz: int) -> None:
        """Called once, on the device, before the optimizer is built."""

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of its own; parameters named here leave the standard groups."""
        return []

    def wrap_criterion(self, model: nn.Module, criterion: Any) -> Any:
        """Take the detection loss, give the loss to train with."""
        return criterion

    def begin(self, run: TrainingRun) -> None:
        """Called once, before ``wrap_criterion``, when optimizer, data and average are there."""

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch (counted from 0), after its random numbers are seeded."""

    def extend_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add to a batch as the loader gives it: images (N, 3, H, W) of whole numbers."""
        return batch

    def loss_names(self) -> list[str]:
        """Names of the losses that ``wrap_criterion`` adds."""
        return []

    def curves(self) -> dict[str, float]:
        """More of the last epoch that is worth a curve."""
        return {}

    def learning_rate(self, epoch: int) -> float | None:
        """The learning rate of an epoch, where it is not the schedule's."""
        return None

    def counts(self, epoch: int) -> bool:
        """Whether this epoch's mAP means something, so that its weights may be the best."""
        return True

    def largest_norm(self) -> float | None:
        """The norm that gradients are clipped to, where it is not ultralytics'."""
        return None

    def keeps_last(self) -> bool:
        """Whether the last epoch's weights are wanted in place of those that validated best."""
        return False

    def close(self) -> None:
        """Take off hooks."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors to save for resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of ``state_dict``."""


class ResumableTrainer(BaseTrainer):
    """Put before a task's own trainer: it keeps a module's structure and resumes exactly."""

    def __init__(
        self, student: nn.Module, job: TrainingJob, extensions: Sequence[TrainingExtension]
    ) -> None:
        super().__init__(overrides=_overrides(student, job))
        self.model = student
        self.job = job
        self.extensions = list(extensions)
        self.history: dict[str, list[float]] = {}
        self.best_path = job.folder / "best_weights.pt"
        self.state_path = job.folder / "state.pt"
        self.bar: Task | None = None
        self.add_callback("on_pretrain_routine_end", ResumableTrainer.attach)
        self.add_callback("on_train_epoch_start", ResumableTrainer.start_epoch_seeded)
        self.add_callback("on_train_batch_end", ResumableTrainer.count_batch)

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The stock optimizer, plus the groups of the extensions."""
        plain = unwrap_model(model)
        for extension in self.extensions:
            extension.prepare(plain, self.device, self.args.imgsz)
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, *args, **kwargs)
        for extension in self.extensions:
            for group in extension.parameter_groups(plain, self.args.lr0):
                own = {id(parameter) for parameter in group["params"]}
                for stock in optimizer.param_groups:
                    stock["params"] = [p for p in stock["params"] if id(p) not in own]
                optimizer.add_param_group(group)
        return optimizer

    def _setup_scheduler(self) -> None:
        """The stock schedule, except where an extension sets the learning rate of an epoch."""
        super()._setup_scheduler()
        schedule = self.lf

        def factor(epoch: int) -> float:
            rates = [extension.learning_rate(int(epoch)) for extension in self.extensions]
            given = [rate for rate in rates if rate is not None]
            return given[0] / float(self.args.lr0) if given else float(schedule(epoch))

        self.lf = factor
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_lambda=self.lf)

    def attach(self) -> None:
        """After the weights' average is copied: wrap the loss, then pick up a saved state."""
        model = unwrap_model(self.model)
        model.criterion = model.init_criterion()
        run = self._run()
        for extension in self.extensions:
            extension.begin(run)
            model.criterion = extension.wrap_criterion(model, model.criterion)
        state = read_state(self.state_path)
        if state is not None:
            restore(self, state)
            for extension, saved in zip(self.extensions, state["extensions"], strict=True):
                extension.load_state_dict(saved)
            self.history = state["history"]
        if self.bar is not None:
            self.bar.advance(self.start_epoch * len(self.train_loader))

    def _run(self) -> TrainingRun:
        closing = self.epochs - self.args.close_mosaic if self.args.close_mosaic else self.epochs
        return TrainingRun(
            epochs=self.epochs,
            batches=len(self.train_loader),
            plain_from=0 if not self.args.mosaic else max(closing, 0),
            device=self.device,
            average=lambda: self.ema.ema,
            arguments=self.args,
        )

    def start_epoch_seeded(self) -> None:
        """Random numbers of this epoch depend on nothing that happened before."""
        seed_epoch(self, self.job.seed, self.epoch)
        for extension in self.extensions:
            extension.start_epoch(self.epoch)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the extensions add goes through the stock steps too."""
        for extension in self.extensions:
            batch = extension.extend_batch(batch)
        processed: dict[str, Any] = super().preprocess_batch(batch)
        return processed

    def optimizer_step(self) -> None:
        """The stock step, with a norm that extensions may set, for what they train as well."""
        norms = [norm for e in self.extensions if (norm := e.largest_norm()) is not None]
        largest = min(norms, default=STOCK_NORM)
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        students = {id(parameter) for parameter in self.model.parameters()}
        for group in self.optimizer.param_groups:
            others = [p for p in group["params"] if id(p) not in students]
            torch.nn.utils.clip_grad_norm_(others, largest)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.model)

    def validate(self) -> tuple[Any, Any]:
        """Epochs whose mAP means nothing are measured, but never the best."""
        best = self.best_fitness
        metrics, fitness = super().validate()
        if not self._counts():
            self.best_fitness = best
        if best is None:  # patience begins with the first epoch that counts
            self.stopper.best_fitness, self.stopper.best_epoch = 0.0, self.epoch
        return metrics, fitness

    def _counts(self) -> bool:
        return all(extension.counts(self.epoch) for extension in self.extensions)

    def count_batch(self) -> None:
        """Move the progress bar."""
        self.refuse_nan()
        if self.bar is not None:
            losses = " ".join(f"{k} {float(v):.3g}" for k, v in self.tloss.items())
            self.bar.advance(1, f"epoch {self.epoch + 1}/{self.epochs} {losses}")

    def refuse_nan(self) -> None:
        """Stop at the first batch whose loss is no number, naming the term."""
        for name, value in self.loss_items.items():
            if not torch.isfinite(torch.as_tensor(value)).all():
                raise CompressError(
                    f"Training stopped: the loss '{name}' became {float(value)} in epoch "
                    f"{self.epoch + 1} of {self.epochs}. {self.epoch} epochs are kept: the same "
                    f"command goes on from epoch {self.epoch + 1}, if the machine was at fault. "
                    "Else lower `lr0` or the weight of this loss: then the stage trains anew."
                )

    def save_model(self) -> bool:
        """Keep the exact state for resume, and the averaged weights when they are the best."""
        row = {**self.label_loss_items(self.tloss), **self.metrics}
        for name in (name for extension in self.extensions for name in extension.loss_names()):
            row.pop(f"val/{name}", None)  # a term of the training alone: validation knows none
        for extension in self.extensions:
            row |= extension.curves()
        for key, value in row.items():
            self.history.setdefault(key, []).append(float(value))
        last = any(extension.keeps_last() for extension in self.extensions)
        if last or (self._counts() and self.best_fitness == self.fitness):
            write_state(best_weights(self), self.best_path)
        state = capture(self)
        state["extensions"] = [extension.state_dict() for extension in self.extensions]
        write_state({**state, "history": self.history}, self.state_path)
        return True

    def final_eval(self) -> None:
        """Nothing: the stage measures the saved weights itself."""


def _overrides(student: nn.Module, job: TrainingJob) -> dict[str, Any]:
    arguments = dict(job.arguments)
    return {
        "amp": "bf16" if _bf16(job.device) else False,  # the stock check would download a model
        **arguments,
        "model": "student.yaml",  # only a name: the trainer gets the module itself
        "data": str(job.data),
        "imgsz": job.imgsz,
        "seed": job.seed,
        "device": job.device,
        "workers": job.workers,
        "save_dir": str(job.folder / "ultralytics"),
        # one step a batch: no half-accumulated gradient crosses an epoch, where a resume starts
        "nbs": arguments["batch"],
        "deterministic": True,
        "plots": False,
        "val": True,
        "verbose": False,
        "task": task_of(student).name,
        "nms": False if is_end_to_end(student) else None,  # validate the branch that is exported
        "mode": "train",
        "exist_ok": True,
    }


def _bf16(device: str) -> bool:
    return device != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def train(
    student: nn.Module,
    job: TrainingJob,
    progress: Progress,
    title: str,
    extensions: Sequence[TrainingExtension] = (),
) -> Training:
    """Train ``student`` on its task and give the averaged weights of the epoch that validated best.

    A module keeps its structure (pruned widths, fake quantizers). Called again with the same
    ``job.folder`` after a kill it goes on from the last finished epoch.

    Raises:
        CompressError: if a loss becomes NaN or infinite.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    finished = read_state(job.folder / "state.pt")
    if finished is None or not finished["finished"]:
        _run(student, job, progress, title, extensions)
    state = read_state(job.folder / "state.pt")
    weights = read_state(job.folder / "best_weights.pt")
    if state is None or weights is None:
        raise CompressError(f"Training '{title}' ended without weights in {job.folder}.")
    return Training(weights, state["history"])


def _trainer_of(student: nn.Module) -> Callable[..., ResumableTrainer]:
    """The stock trainer of the student's task, made resumable."""
    stock = task_of(student).trainer
    return type(f"Resumable{stock.__name__}", (ResumableTrainer, stock), {})


def _run(
    student: nn.Module,
    job: TrainingJob,
    progress: Progress,
    title: str,
    extensions: Sequence[TrainingExtension],
) -> None:
    with quiet_ultralytics():
        student.requires_grad_(True)  # a loaded checkpoint comes frozen
        trainer = _trainer_of(student)(student, job, extensions)
        batches = -(-job.images // job.arguments["batch"])
        with progress.task(title, batches * job.arguments["epochs"]) as bar:
            trainer.bar = bar
            try:
                trainer.train()
            finally:
                for extension in extensions:
                    extension.close()
                unwrap_model(trainer.model).criterion = None
