"""MACs targets and alignments on real weights, and the time of planning beside torch-pruning's.

``python docs/results/prune_targets.py yolov8n.pt coco256.yaml`` prunes to every target with every
alignment, exports, reads every convolution of both files, and measures mAP here and in stock
ultralytics in a Python that cannot import this package. Then torch-pruning's own loop (LAMP, 200
steps, ``round_to``) prunes the same net. Writes ``prune_targets.json`` and ``prune_loops.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from bench.alignment.convs import misaligned_convs
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.evaluate import evaluate
from compress.models.exportable import exportable
from compress.models.inspect import conv_widths, count_macs, count_params, dfl_convs, head_outputs
from compress.prune.cost import keep_share
from compress.prune.prune import prune_model
from compress.prune.solver import Rules
from compress.prune.structure import PrunableModel
from export.float_onnx import export_float

HERE = Path(__file__).resolve().parent
TARGETS, ALIGNMENTS = (0.75, 0.5, 0.4, 0.3), (4, 8, 16)
_STEPS = 200

_STOCK = """\
import json, sys
sys.modules.update(compress=None, export=None, bench=None)
from ultralytics import YOLO
data, imgsz, *files = sys.argv[1:]
for file in files:
    box = YOLO(file).val(data=data, imgsz=int(imgsz), rect=False, batch=16, plots=False, workers=0,
                         device="cpu", verbose=False, project="val", exist_ok=True).box
    print("RESULT " + json.dumps({"file": file, "map50_95": box.map}), flush=True)
"""


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--imgsz", type=int, default=640, help="of planning")
    parser.add_argument("--val-imgsz", type=int, default=320, help="of validation")
    given = parser.parse_args()
    model = load_checkpoint(given.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [
            one_target(model, keep, align, given, folder)
            for keep in TARGETS
            for align in ALIGNMENTS
        ]
        stock = in_stock([row["file"] for row in found], given, folder)
    for row in found:
        row["stock"] = stock[row.pop("file")]
    facts = f"{given.model.name} planned at {given.imgsz} px, validated at {given.val_imgsz} px"
    write("prune_targets", targets_table(found), facts, found)
    loops = [one_loop(model, keep, align, given.imgsz) for keep in (0.5, 0.4) for align in (8,)]
    write("prune_loops", loops_table(loops), f"{given.model.name} at {given.imgsz} px", loops)


def one_target(
    model: nn.Module, keep: float, align: int, given: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Prune, save, export, look into both files, measure."""
    start = time.perf_counter()
    budget = keep_share(model, given.imgsz, "macs", keep)
    pruned = prune_model(model, budget, Rules(align)).model
    seconds = time.perf_counter() - start
    checkpoint, onnx = folder / f"{keep}-{align}.pt", folder / f"{keep}-{align}.onnx"
    save_checkpoint(pruned, checkpoint)
    again = load_checkpoint(checkpoint)
    export_float(exportable(again), given.imgsz, onnx)
    return {
        "keep": keep,
        "align": align,
        "kept": count_macs(again, given.imgsz) / count_macs(model, given.imgsz),
        "params": count_params(again),
        "unaligned_pt": unaligned(again, align),
        "unaligned_onnx": len(misaligned_convs(onnx, align)),
        "map50_95": evaluate(again, given.data, given.val_imgsz).map50_95,
        "seconds": seconds,
        "file": str(checkpoint),
    }


def unaligned(model: nn.Module, align: int) -> int:
    """Sides of convolutions that are no multiple, but for the image, the outputs and DFL."""
    fixed = {*head_outputs(model), *dfl_convs(model)}
    count = sum(w % align != 0 for n, w in conv_widths(model).items() if n not in fixed)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels != 3 and name not in fixed:
            count += module.in_channels % align != 0
    return count


def in_stock(files: list[str], given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """MAP50-95 of each checkpoint as stock ultralytics finds it."""
    command = [sys.executable, "-c", _STOCK, str(given.data.resolve()), str(given.val_imgsz)]
    out = subprocess.run(
        [*command, *files], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    lines = [line.removeprefix("RESULT ") for line in out.splitlines() if line.startswith("RESULT")]
    return {found["file"]: found["map50_95"] for found in map(json.loads, lines)}


def one_loop(model: nn.Module, keep: float, align: int, imgsz: int) -> dict[str, Any]:
    """Our plan and torch-pruning's own loop for the same target, one after the other."""
    start = time.perf_counter()
    ours = prune_model(model, keep_share(model, imgsz, "macs", keep), Rules(align)).model
    seconds = time.perf_counter() - start
    # on stock C2f its graph raises: it gets the copy in which channels can be followed
    work = PrunableModel(model).work
    modules = dict(work.named_modules())
    fixed = [modules[name] for name in (*head_outputs(work), *dfl_convs(work))]
    example, before = torch.zeros(1, 3, imgsz, imgsz), count_macs(work, imgsz)
    start = time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        work,
        example,
        importance=tp.importance.LAMPImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=_STEPS,
        ignored_layers=fixed,
        round_to=align,
    )
    steps = 0
    while steps < _STEPS and count_macs(work, imgsz) > keep * before:
        pruner.step()
        steps += 1
    theirs = time.perf_counter() - start
    return {
        "keep": keep,
        "align": align,
        "ours": {
            "seconds": seconds,
            "kept": count_macs(ours, imgsz) / count_macs(model, imgsz),
            "unaligned": unaligned(ours, align),
        },
        "torch_pruning": {
            "seconds": theirs,
            "kept": count_macs(work, imgsz) / before,
            "unaligned": unaligned(work, align),
            "steps": steps,
        },
    }


def targets_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``tables.py`` prints."""
    columns = ["MACs asked", "align", "MACs kept", "Params", "unaligned in .pt", "in .onnx"]
    columns += ["mAP50-95 here", "in stock", "plan, s"]
    return {
        "columns": columns,
        "rows": [
            [
                f"{row['keep']:.2f}",
                str(row["align"]),
                f"{row['kept']:.4f}",
                f"{row['params'] / 1e6:.2f} M",
                str(row["unaligned_pt"]),
                str(row["unaligned_onnx"]),
                f"{row['map50_95']:.4f}",
                f"{row['stock']:.4f}",
                f"{row['seconds']:.1f}",
            ]
            for row in rows
        ],
    }


def loops_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Both ways side by side."""
    columns = ["MACs asked", "align", "way", "MACs kept", "unaligned sides", "s"]
    return {
        "columns": columns,
        "rows": [
            [
                f"{row['keep']:.2f}",
                str(row["align"]),
                title,
                f"{row[way]['kept']:.4f}",
                str(row[way]["unaligned"]),
                f"{row[way]['seconds']:.1f}",
            ]
            for row in rows
            for way, title in (("ours", "compress"), ("torch_pruning", "torch-pruning's loop"))
        ],
    }


def write(name: str, table: dict[str, Any], facts: str, results: Any) -> None:
    """Figures and the table made of them."""
    content = {**table, "facts": facts, "results": results}
    (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
