"""What to train on and how, and what of it ultralytics is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.errors import CompressError
from compress.models.inspect import is_end_to_end
from compress.models.tasks import task_of


@dataclass(frozen=True)
class TrainingJob:
    """What to train on, and how.

    ``data`` is a data yaml, for a classifier the folder that holds ``train`` and ``val``.
    ``images`` is the size of the train split, ``folder`` outlives a kill, ``arguments`` are
    training arguments of ultralytics. ``device`` is ``cpu``, ``mps``, ``cuda``, the number of a GPU
    or several of them such as ``0,1``: each then gets a process and its share of every batch.
    ``processes`` is for the CPU alone, where more than one is of use only to try that out.
    """

    data: Path
    images: int
    imgsz: int
    seed: int
    device: str
    workers: int
    folder: Path
    arguments: Mapping[str, Any]
    processes: int = 1

    @property
    def ranks(self) -> int:
        """How many processes train."""
        return self.processes if self.device == "cpu" else len(self.device.split(","))


def overrides(student: nn.Module, job: TrainingJob, batch: int) -> dict[str, Any]:
    """Arguments for ultralytics' trainer of ``student``, with batches of ``batch`` images."""
    return {
        "amp": "bf16" if _bf16(job.device) else False,  # the stock check would download a model
        **job.arguments,
        "batch": batch,
        "model": "student.yaml",  # only a name: the trainer gets the module itself
        "data": str(job.data),
        "imgsz": job.imgsz,
        "seed": job.seed,
        "device": job.device,
        "workers": job.workers,
        "save_dir": str(job.folder / "ultralytics"),
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


def check_shares(job: TrainingJob) -> None:
    """Refuse what several processes cannot share.

    Raises:
        CompressError: a batch that they cannot split equally, or rectangular batches.
    """
    if job.ranks == 1:
        return
    if job.arguments["batch"] % job.ranks:
        raise CompressError(
            f"A batch of {job.arguments['batch']} images cannot be shared equally by {job.ranks} "
            f"processes: give a `batch` that is a multiple of {job.ranks}."
        )
    if job.arguments.get("rect"):
        raise CompressError(
            "`rect` cannot be trained on several devices, which shuffle their images: leave it "
            "out, or give one device."
        )
