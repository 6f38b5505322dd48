"""Training on stock ultralytics: any student module, extra losses, exact resume.

The trainer is ultralytics' own, subclassed. What a stage adds (distillation, quantization) comes
as a ``TrainingExtension``; hooks are set on the live model only and taken off at the end, so
nothing of it reaches a checkpoint.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn import tasks
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from compress.errors import CompressError
from compress.models.custom_modules import custom_modules
from compress.models.extension import TrainingExtension, TrainingRun
from compress.models.parallel import (
    ParallelTrainer,
    average_gradients,
    of_all,
    of_first,
    take_first,
)
from compress.models.processes import run_together
from compress.models.quiet import quiet_ultralytics
from compress.models.tasks import task_of
from compress.models.training_job import TrainingJob, check_shares, overrides
from compress.models.training_state import (
    best_weights,
    capture,
    mosaic_buffer,
    read_state,
    restore,
    seed_epoch,
    write_state,
)
from compress.progress import Progress, Task

__all__ = [
    "ResumableTrainer",
    "Training",
    "TrainingExtension",
    "TrainingJob",
    "TrainingRun",
    "train",
]

STOCK_NORM = 10.0  # what ultralytics clips gradients to
_STOCK_LAYERS = ("ultralytics", "torch", "torchvision")


@dataclass
class Training:
    """Result: float32 averaged weights of the best epoch, and the curves of all epochs."""

    weights: dict[str, torch.Tensor]
    curves: dict[str, list[float]] = field(default_factory=dict)


# what ultralytics gives to its groups one by one, and torch would not give to later ones
_OF_GROUPS = ("momentum", "nesterov", "betas", "weight_decay")


def _common_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Settings of the stock group of weights that groups of extensions share."""
    decayed = max(optimizer.param_groups, key=lambda group: group.get("weight_decay", 0.0))
    return {key: decayed[key] for key in _OF_GROUPS if key in decayed}


class ResumableTrainer(ParallelTrainer):
    """Put before a task's own trainer: it keeps a module's structure and resumes exactly."""

    def __init__(
        self, student: nn.Module, job: TrainingJob, extensions: Sequence[TrainingExtension]
    ) -> None:
        self.state_path = job.folder / "state.pt"
        self.best_path = job.folder / "best_weights.pt"
        self.saved = read_state(self.state_path)
        # where memory ran out, the batch was halved, and stays so
        batch = self.saved["batch"] if self.saved is not None else job.arguments["batch"]
        super().__init__(overrides=overrides(student, job, batch))
        self.model = student
        self.job = job
        self.extensions = list(extensions)
        self.history: dict[str, list[float]] = {}
        self.buffers: list[list[int]] = []
        self.bar: Task | None = None
        self.add_callback("on_pretrain_routine_end", ResumableTrainer.attach)
        self.add_callback("on_train_epoch_start", ResumableTrainer.start_epoch_seeded)
        self.add_callback("on_train_batch_end", ResumableTrainer.count_batch)
        self.add_callback("on_train_epoch_end", ResumableTrainer.gather)

    def _build_train_pipeline(self) -> None:
        """One step a batch: no half-accumulated gradient crosses an epoch, where a resume starts.

        The stock trainer comes here again with half the batch where memory ran out.
        """
        self.args.nbs = self.batch_size
        super()._build_train_pipeline()

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The stock optimizer, plus the groups of the extensions."""
        plain = unwrap_model(model)
        for extension in self.extensions:
            extension.prepare(plain, self.device, self.args.imgsz)
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, *args, **kwargs)
        like = _common_settings(optimizer)
        for extension in self.extensions:
            for group in extension.parameter_groups(plain, self.args.lr0):
                own = {id(parameter) for parameter in group["params"]}
                for stock in optimizer.param_groups:
                    stock["params"] = [p for p in stock["params"] if id(p) not in own]
                optimizer.add_param_group({**like, **group})
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
        model.criterion = _Watched(model.criterion, self.refuse)
        state, self.saved = self.saved, None
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
            rank=max(RANK, 0),
            ranks=self.job.ranks,
            asked_batch=int(self.job.arguments["batch"]),
        )

    def start_epoch_seeded(self) -> None:
        """Random numbers of this epoch depend on nothing that happened before."""
        seed_epoch(self, self.job.seed, self.epoch)
        take_first(unwrap_model(self.model).buffers())  # as all find them after a kill
        for extension in self.extensions:
            if self.job.ranks > 1:
                state = of_first(extension.state_dict())
                if RANK > 0:
                    extension.load_state_dict(state)
            extension.start_epoch(self.epoch)

    def gather(self) -> None:
        """What the first process has to save of the others."""
        self.buffers = of_all(mosaic_buffer(self))

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the extensions add goes through the stock steps too."""
        for extension in self.extensions:
            batch = extension.extend_batch(batch)
        processed: dict[str, Any] = super().preprocess_batch(batch)
        return processed

    def optimizer_step(self) -> None:
        """The stock step, with a norm that extensions may set, for what they train as well."""
        given = [norm for e in self.extensions if (norm := e.largest_norm()) is not None]
        largest = min(given, default=STOCK_NORM)
        students = {id(parameter) for parameter in self.model.parameters()}
        groups = [
            [parameter for parameter in group["params"] if id(parameter) not in students]
            for group in self.optimizer.param_groups
        ]
        average_gradients([parameter for group in groups for parameter in group])
        self.scaler.unscale_(self.optimizer)
        norms = [
            # of parameters without any gradient the norm is a zero on the CPU
            torch.nn.utils.clip_grad_norm_(parameters, largest).to(self.device)
            for parameters in (*filter(None, groups), self.model.parameters())
        ]
        if not self.scaler.is_enabled():  # a scaler skips such a step and lowers its scale
            self.refuse({"gradient": torch.stack(norms).sum()})
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.model)

    def validate(self) -> tuple[Any, Any]:
        """Epochs whose mAP means nothing are measured, but never the best.

        Without a fitness, patience does not see them.
        """
        best = self.best_fitness
        metrics, fitness = super().validate()
        if self._counts():
            return metrics, fitness
        self.best_fitness = best
        if best is not None:
            self.stopper.best_epoch += 1  # patience counts on from here
        return metrics, None

    def _counts(self) -> bool:
        return all(extension.counts(self.epoch) for extension in self.extensions)

    def count_batch(self) -> None:
        """Move the progress bar."""
        if self.bar is not None:
            losses = " ".join(f"{k} {float(v):.3g}" for k, v in self.tloss.items())
            self.bar.advance(1, f"epoch {self.epoch + 1}/{self.epochs} {losses}")

    def refuse(self, values: Mapping[str, Any]) -> None:
        """Stop before a weight is touched if one of ``values``, by what it is, is no number.

        Raises:
            CompressError: it names the value and the epoch to go on from.
        """
        for name, value in values.items():
            if not torch.isfinite(torch.as_tensor(value)).all():
                raise CompressError(
                    f"Training stopped: the {name} became {float(value)} in epoch "
                    f"{self.epoch + 1} of {self.epochs}. {self.epoch} epochs are kept: the same "
                    f"command goes on from epoch {self.epoch + 1}, if the machine was at fault. "
                    "Else lower `lr0` or the weight of a loss: then the stage trains anew."
                )

    def _more_curves(self) -> dict[str, float]:
        return {k: v for extension in self.extensions for k, v in extension.curves().items()}

    def save_metrics(self, metrics: Mapping[str, Any]) -> None:
        """The stock row of ``results.csv``, with the curves of the extensions."""
        super().save_metrics({**metrics, **self._more_curves()})

    def save_model(self) -> bool:
        """Keep the exact state for resume, and the averaged weights when they are the best."""
        losses = {f"train/{name}": float(value) for name, value in self.tloss.items()}
        row = {**losses, **self.metrics}  # not rounded, as ultralytics' own are
        for name in (name for extension in self.extensions for name in extension.loss_names()):
            row.pop(f"val/{name}", None)  # a term of the training alone: validation knows none
        row |= self._more_curves()
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


class _Watched:
    """A criterion whose losses are looked at before they reach a weight."""

    def __init__(self, criterion: Any, refuse: Callable[[Mapping[str, Any]], None]) -> None:
        self.criterion = criterion
        self.refuse = refuse

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        loss, items = self.criterion(preds, batch)
        if not bool(torch.isfinite(loss.detach()).all()):  # a GPU is waited for once
            self.refuse({f"loss '{name}'": value for name, value in items.items()})
            self.refuse({"sum of all losses": loss.detach().sum()})
        return loss, items

    def update(self) -> None:
        """Called after each epoch: some heads' loss weights move."""
        if hasattr(self.criterion, "update"):
            self.criterion.update()


def train(
    student: nn.Module,
    job: TrainingJob,
    progress: Progress,
    title: str,
    extensions: Sequence[TrainingExtension] = (),
) -> Training:
    """Train ``student`` on its task and give the averaged weights of the epoch that validated best.

    A module keeps its structure (pruned widths, fake quantizers). Called again with the same
    ``job.folder`` after a kill it goes on from the last finished epoch. Where several processes
    train, ``student`` and ``extensions`` themselves stay as they are.

    Raises:
        CompressError: if a loss becomes NaN or infinite, or memory does not suffice.
    """
    check_shares(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    finished = read_state(job.folder / "state.pt")
    if finished is None or not finished["finished"]:
        batches = -(-job.images // job.arguments["batch"])
        with progress.task(title, batches * job.arguments["epochs"]) as bar:
            if job.ranks == 1:
                _train_here(student, job, extensions, bar)
            else:
                log = job.folder / "ultralytics" / "results.csv"
                log.unlink(missing_ok=True)  # each process would try to, but the first
                packed = pickle.dumps((student, job, extensions))
                run_together(_train_apart, (_own_layers(), packed), job.ranks, bar)
    state = read_state(job.folder / "state.pt")
    weights = read_state(job.folder / "best_weights.pt")
    if state is None or weights is None:
        raise CompressError(f"Training '{title}' ended without weights in {job.folder}.")
    return Training(weights, state["history"])


def _trainer_of(student: nn.Module) -> Callable[..., ResumableTrainer]:
    """The stock trainer of the student's task, made resumable."""
    stock = task_of(student).trainer
    return type(f"Resumable{stock.__name__}", (ResumableTrainer, stock), {})


def _train_here(
    student: nn.Module,
    job: TrainingJob,
    extensions: Sequence[TrainingExtension],
    bar: Task | None,
) -> None:
    """Train in this process."""
    with quiet_ultralytics(), ExitStack() as exits:
        for extension in extensions:
            exits.callback(extension.close)
        exits.callback(setattr, student, "criterion", None)
        student.requires_grad_(True)  # a loaded checkpoint comes frozen
        trainer = _trainer_of(student)(student, job, extensions)
        trainer.bar = bar
        try:
            trainer.train()
        except RuntimeError as error:
            if "out of memory" not in str(error).lower():
                raise
            raise CompressError(
                f"Training ran out of memory with batches of {trainer.batch_size} images: "
                f"{str(error).splitlines()[0]} Lower `batch` or `imgsz`."
            ) from error


def _own_layers() -> Path | None:
    """The file that ``custom_modules`` has loaded, if any."""
    layers = [v for v in vars(tasks).values() if isinstance(v, type) and issubclass(v, nn.Module)]
    modules = {v.__module__ for v in layers if v.__module__.split(".")[0] not in _STOCK_LAYERS}
    files = [sys.modules[name].__file__ for name in modules]
    return Path(files[0]) if files and files[0] else None


def _train_apart(layers: Path | None, packed: bytes, bar: Task | None) -> None:
    """Train in a new process, which does not know the user's own layers yet."""
    with custom_modules(layers):
        student, job, extensions = pickle.loads(packed)
        _train_here(student, job, extensions, bar)
