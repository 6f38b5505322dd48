"""What a training step with a teacher costs: ours and ultralytics' own, in one interleaved run.

``python docs/results/distill_cost.py student.pt teacher.pt`` times steps (forward, loss, backward)
of the student alone, with ultralytics' ``distill_model=`` and with losses of ours, and the
teacher's forward pass alone; rounds take turns, so that drift hits all alike. The optimizer's step
is left out: it is the same for all. ``distill_cost.json`` is written.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.distill_model import DistillationModel

from bench.devices.machine import read_machine
from compress.distill.extension import Distillation
from compress.distill.teachers import TeacherSpec
from compress.models.checkpoint import load_checkpoint
from compress.models.exportable import fused_copy
from compress.models.trainer import TrainingRun
from compress.recipe.distillation import Distill
from compress.stages.distillation import term_specs

HERE = Path(__file__).resolve().parent
PLAIN, THEIRS, TEACHER = "labels alone", "ultralytics' own", "teacher's forward pass"
WAYS: Mapping[str, list[str]] = {
    "cwd": ["cwd"],
    "mimic": ["mimic"],
    "pkd": ["pkd"],
    "l2": ["l2"],
    "bckd": ["bckd"],
    "bckd + cwd": ["bckd", "cwd"],
    "mgd": ["mgd"],
    "crosskd": ["crosskd"],
}
CPU = torch.device("cpu")


def batch_of(count: int, imgsz: int) -> dict[str, torch.Tensor]:
    """Images of noise with ten boxes each."""
    boxes = torch.rand(10 * count, 4) * 0.4 + 0.3
    return {
        "img": torch.rand(count, 3, imgsz, imgsz),
        "batch_idx": torch.arange(count).repeat_interleave(10).float(),
        "cls": torch.zeros(10 * count, 1),
        "bboxes": boxes,
    }


def prepared(model: nn.Module, imgsz: int) -> nn.Module:
    """A copy as a training has it."""
    copy = deepcopy(model).train().requires_grad_(True)
    copy.args = get_cfg(overrides={"imgsz": imgsz})
    return copy


def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """Forward, losses, backward."""
    loss, _ = model(batch)
    loss.sum().backward()
    model.zero_grad(set_to_none=True)


def distilled(student: nn.Module, teacher: nn.Module, kinds: list[str], imgsz: int) -> nn.Module:
    """A student whose criterion asks the teacher, with the recipe's defaults."""
    config = Distill.model_validate({"losses": [{"kind": kind} for kind in kinds]})
    model = prepared(student, imgsz)
    extension = Distillation([TeacherSpec(deepcopy(teacher))], term_specs(config.losses))
    extension.prepare(model, CPU, imgsz)
    extension.begin(TrainingRun(10, 1000, 10, CPU, lambda: model, model.args))
    model.criterion = extension.wrap_criterion(model, model.init_criterion())
    extension.start_epoch(1)  # in the first epoch gradients are measured once
    assert extension.criterion is not None
    extension.criterion.measuring = False
    return model


def tasks(given: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """What is timed, by name."""
    student, teacher = (load_checkpoint(file) for file in (given.student, given.teacher))
    batch = batch_of(given.batch, given.imgsz)
    plain = prepared(student, given.imgsz)
    own = DistillationModel(deepcopy(teacher), prepared(student, given.imgsz)).train()
    folded = fused_copy(teacher)

    def forward() -> None:
        with torch.no_grad():
            folded(batch["img"])

    found: dict[str, Callable[[], None]] = {
        PLAIN: lambda: step(plain, batch),
        TEACHER: forward,
        THEIRS: lambda: step(own, batch),
    }
    for name, kinds in WAYS.items():
        model = distilled(student, teacher, kinds, given.imgsz)
        found[name] = lambda model=model: step(model, batch)
    return found


def measure(work: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, round by round; the first round warms up and is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def table(seconds: Mapping[str, list[float]]) -> dict[str, Any]:
    """Fastest rounds, and what a step costs above the plain step plus the teacher's forward pass.

    Other work on the machine only ever adds time, so the fastest round is the least disturbed.
    """
    fastest = {name: min(values) for name, values in seconds.items()}
    least = fastest[PLAIN] + fastest[TEACHER]
    rows = [
        [name, f"{value:.2f}", "-" if name in (PLAIN, TEACHER) else f"{value / least - 1:+.1%}"]
        for name, value in fastest.items()
    ]
    return {"columns": ["Step", "Seconds", "Above plain + teacher"], "rows": rows}


def main() -> None:
    """Time all of them and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    seconds = measure(tasks(given), given.rounds)
    facts = (
        f"{given.student.stem} taught by {given.teacher.stem}, batch {given.batch}, {given.imgsz} "
        f"px, one thread of {read_machine().cpu}, fastest of {given.rounds} interleaved rounds."
    )
    content = {**table(seconds), "facts": facts, "seconds": seconds}
    (HERE / "distill_cost.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
