"""Ways of distilling against each other: equal budget, several seeds, test mAP.

``python docs/results/distill_losses.py STUDENT teacher.pt data.yaml OUT NAME`` trains STUDENT (a
``.pt`` or a model yaml) on labels alone, with ultralytics' own distillation and with ours, and
writes ``NAME.json``. Weights of an epoch are chosen on val. A killed run goes on from OUT.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from compress.models.checkpoint import load_checkpoint
from compress.models.evaluate import evaluate

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "distill_losses.yaml"
PLAIN, THEIRS = "labels alone", "ultralytics' own"
WAYS: Mapping[str, list[dict[str, Any]]] = {
    "cwd": [{"kind": "cwd"}],
    "mgd": [{"kind": "mgd"}],
    "mimic": [{"kind": "mimic"}],
    "pkd": [{"kind": "pkd"}],
    "bckd": [{"kind": "bckd"}],
    "bckd + cwd": [{"kind": "bckd"}, {"kind": "cwd"}],
    "l2": [{"kind": "l2"}],
    # weights tried on val with seed 0, for shares of the gradient near those of the labels
    "cwd, weight 6": [{"kind": "cwd", "weight": 6.0}],
    "pkd, weight 5": [{"kind": "pkd", "weight": 5.0}],
    "l2, weight 0.15": [{"kind": "l2", "weight": 0.15}],
    "bckd, weight 0.5 + cwd, weight 6": [
        {"kind": "bckd", "weight": 0.5},
        {"kind": "cwd", "weight": 6.0},
    ],
}


def folder_of(out: Path, way: str, seed: int) -> Path:
    """Where one run lies."""
    return out / f"{re.sub('[^a-z0-9.]+', '-', way)}-{seed}"


def ours(out: Path, way: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train by recipe; figures of the run."""
    folder = folder_of(out, way, seed)
    recipe = yaml.safe_load(RECIPE.read_text())
    if way != PLAIN:
        recipe["stages"][0]["distill"] = {"teachers": [str(given.teacher)], "losses": WAYS[way]}
    file = out / f"{folder.name}.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    settings = [f"model={given.student}", f"data={given.data}", f"seed={seed}", *given.set]
    command = [sys.executable, "-m", "compress", "run", str(file), *settings]
    subprocess.run([*command, "--out", str(folder), "--cache", str(out / ".cache")], check=True)
    record = json.loads((folder / "run.json").read_text())
    stage = next(stage for stage in record["stages"] if stage["name"] == "base")
    curves = stage["metrics"].get("curves", {})
    shares = {k: statistics.mean(v) for k, v in curves.items() if k.startswith("gradient/")}
    return {
        **_measured(folder / stage["files"]["checkpoint"]["path"], given.data, record["imgsz"]),
        "gradient_shares": shares,
        "imgsz": record["imgsz"],
        "arguments": stage["config"]["train"],
    }


def theirs(
    out: Path, seed: int, given: argparse.Namespace, like: Mapping[str, Any]
) -> dict[str, Any]:
    """Train by ultralytics' command line with ``distill_model=``, with the settings of ``like``."""
    folder = folder_of(out, THEIRS, seed)
    best = folder / "weights" / "best.pt"
    if not (folder / "done").exists():
        settings = {**like["arguments"], "imgsz": like["imgsz"], "seed": seed, "device": "cpu"}
        settings |= {"nbs": settings["batch"], "deterministic": True}  # as ours
        words = [f"{key}={value}" for key, value in settings.items()]
        words += [f"model={given.student}", f"data={given.data}", f"distill_model={given.teacher}"]
        words += [f"project={out}", f"name={folder.name}", "exist_ok=True", "workers=0"]
        words += ["plots=False", "amp=False", "mode=train", "task=detect"]
        subprocess.run([str(Path(sys.executable).parent / "yolo"), *words], check=True)
        (folder / "done").touch()
    return _measured(best, given.data, like["imgsz"])


def _measured(checkpoint: Path, data: Path, imgsz: int) -> dict[str, Any]:
    model = load_checkpoint(checkpoint)
    val, test = (evaluate(model, data, imgsz, split) for split in ("val", "test"))
    return {
        "val": val.map50_95,
        "val50": val.map50,
        "test": test.map50_95,
        "test50": test.map50,
    }


def table(results: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean and spread (sample standard deviation) over seeds."""
    keys = ("val", "test50", "test")
    rows = [
        [name, str(len(found)), *(_spread([f[key] for f in found]) for key in keys), _shares(found)]
        for name, found in results.items()
    ]
    columns = ["Way", "Seeds", "val mAP50-95", "test mAP50", "test mAP50-95", "Gradient shares"]
    return {"columns": columns, "rows": rows}


def _shares(found: Sequence[Mapping[str, Any]]) -> str:
    names = found[0].get("gradient_shares", {})
    means = {name: statistics.mean(f["gradient_shares"][name] for f in found) for name in names}
    return ", ".join(f"{n.removeprefix('gradient/')} {v:.0%}" for n, v in means.items()) or "-"


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def main() -> None:
    """Run what is not done yet, seed by seed; the table is written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("--ways", nargs="+", default=[PLAIN, THEIRS, *WAYS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--finished", action="store_true", help="tabulate what is there")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the recipe")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    given.teacher, given.data, out = (
        given.teacher.resolve(),
        given.data.resolve(),
        given.out.resolve(),
    )
    file = HERE / f"{given.name}.json"
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in given.seeds:
        like: dict[str, Any] = {}
        for way in given.ways:
            found = remembered(out, way, seed, given, like)
            if found is None:
                continue
            like = like or found
            results.setdefault(way, []).append(found)
            facts = (
                f"Student {Path(given.student).name}, teacher {given.teacher.stem}, "
                f"{given.data.name}, {like['imgsz']} px, {like['arguments']['epochs']} epochs, "
                f"batch {like['arguments']['batch']}."
            )
            shown = {"the teacher": [taught(out, given, like["imgsz"])], **results}
            content = {**table(shown), "facts": facts, "results": shown}
            file.write_text(json.dumps(content, indent=1) + "\n")


def taught(out: Path, given: argparse.Namespace, imgsz: int) -> dict[str, Any]:
    """Figures of the teacher, measured once."""
    memo = out / "teacher.json"
    if not memo.exists():
        memo.write_text(json.dumps(_measured(given.teacher, given.data, imgsz)))
    return dict(json.loads(memo.read_text()))


def remembered(
    out: Path, way: str, seed: int, given: argparse.Namespace, like: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Figures of one run, measured once. ``like`` is a run of ours: ultralytics' is set alike.

    None for a run that is not finished, where no more are wanted.
    """
    folder = folder_of(out, way, seed)
    memo = folder.parent / f"{folder.name}.json"
    asked = {"losses": WAYS.get(way), "student": given.student, "set": given.set}
    if memo.exists() and json.loads(memo.read_text())["asked"] == asked:
        return dict(json.loads(memo.read_text())["found"])
    if given.finished:
        return None
    run = theirs(out, seed, given, like) if way == THEIRS else ours(out, way, seed, given)
    memo.write_text(json.dumps({"asked": asked, "found": run}, indent=1))
    return run


if __name__ == "__main__":
    main()
