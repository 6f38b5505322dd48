"""Half the time: a plan by measured times beside a plan by MACs that runs equally fast.

``python docs/results/prune_latency.py best.pt data.yaml OUT`` plans both ways, measuring the whole
net on one thread of ONNX Runtime until its share of the parent's time is within 5 % of the target,
finetunes both nets alike and writes ``prune_latency.json``. ``--plan-only`` stops before training,
so that the measuring can have a quiet machine; the plans are kept in ``OUT``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from bench.conv_times.table import load_table
from bench.devices.machine import read_machine
from compress.data.dataset import load_dataset
from compress.models.batchnorm import reestimate
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.evaluate import evaluate
from compress.models.inspect import count_macs, count_params
from compress.models.trainer import TrainingJob, train
from compress.progress import ConsoleProgress
from compress.prune.cost import keep_share, total_of
from compress.prune.latency import reach_share
from compress.prune.prune import prune_model
from compress.prune.solver import Budget, Rules
from compress.stages.timing import ParentTimer

HERE = Path(__file__).resolve().parent
WAYS = ("measured times", "MACs")
TRAINING = {"batch": 16, "optimizer": "AdamW", "lr0": 0.0005, "close_mosaic": 4}


def main() -> None:
    """Plan, finetune, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--plan-only", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    parent = load_checkpoint(given.model)
    rows = json_of(given.out / "plans.json") or plans(parent, given)
    if given.plan_only:
        return
    for row in rows:
        finetune(row, given)
    columns = ["planned by", "MACs kept", "Params", "measured share of the time", "val", "test"]
    machine = read_machine().cpu
    facts = (
        f"{given.model.name} at {given.imgsz} px on {machine}, share asked: {given.share}; "
        f"{given.epochs} epochs of finetune, seed 0, mAP50-95 on {given.data.name}."
    )
    content = {"columns": columns, "rows": [cells(row) for row in rows], "facts": facts}
    (HERE / "prune_latency.json").write_text(
        json.dumps({**content, "results": rows}, indent=1) + "\n"
    )


def json_of(file: Path) -> list[dict[str, Any]]:
    """What the file holds; nothing if there is none."""
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    return found


def plans(parent: nn.Module, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Both nets, each corrected until its measured time is right, and timed once more."""
    timer = ParentTimer(parent, given.imgsz, 1, given.out, 0, ConsoleProgress(quiet=False))
    times = given.out / "layer_times"
    cost = timer.cost(times)
    table = load_table(times)
    assert table is not None
    whole = total_of(cost, parent)

    def by_time(keep: float) -> nn.Module:
        budget = Budget("time", cost, keep * whole, whole)
        return prune_model(parent, budget, Rules(8, step=table.step)).model

    def by_macs(keep: float) -> nn.Module:
        return prune_model(parent, keep_share(parent, given.imgsz, "macs", keep), Rules(8)).model

    def measured(model: nn.Module) -> float:
        return timer.time(model, precise=True).share

    rows = []
    planners: tuple[Callable[[float], nn.Module], ...] = (by_time, by_macs)
    for way, planner in zip(WAYS, planners, strict=True):
        reached = reach_share(given.share, planner, measured)
        timing = timer.time(reached.model, precise=True)
        save_checkpoint(reached.model, given.out / f"{way}.pt")
        macs = count_macs(parent, given.imgsz)
        rows.append(
            {
                "way": way,
                "trials": reached.trials,
                "timing": timing.metrics(),
                "share": timing.share,
                "macs_kept": count_macs(reached.model, given.imgsz) / macs,
                "params": count_params(reached.model),
            }
        )
    (given.out / "plans.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def finetune(row: dict[str, Any], given: argparse.Namespace) -> None:
    """Statistics, training, mAP on both splits; the row is filled in."""
    model = load_checkpoint(given.out / f"{row['way']}.pt")
    data, progress = load_dataset(given.data), ConsoleProgress(quiet=False)
    model = reestimate(model, given.data, given.imgsz, 256, 0, "cpu", progress)
    row["cut_val"] = evaluate(model, given.data, given.imgsz).map50_95
    arguments = {**TRAINING, "epochs": given.epochs}
    folder = given.out / row["way"].replace(" ", "-")
    images = len(data.splits["train"])
    job = TrainingJob(given.data, images, given.imgsz, 0, "cpu", 0, folder, arguments)
    model.load_state_dict(train(model, job, progress, row["way"]).weights)
    for split in ("val", "test"):
        row[split] = evaluate(model.eval(), given.data, given.imgsz, split).map50_95


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    low, high = (1 / bound for bound in reversed(row["timing"]["speedup_ci"]))
    return [
        row["way"],
        f"{row['macs_kept']:.3f}",
        f"{row['params'] / 1e6:.2f} M",
        f"{row['share']:.3f} ({low:.3f} to {high:.3f})",
        f"{row['val']:.3f}",
        f"{row['test']:.3f}",
    ]


if __name__ == "__main__":
    main()
