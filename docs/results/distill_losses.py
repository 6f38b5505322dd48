"""Ways of distilling against each other: equal budget, several seeds, test mAP.

``python docs/results/distill_losses.py STUDENT teacher.pt data.yaml OUT NAME`` trains STUDENT (a
``.pt`` or a model yaml) on labels alone, with ultralytics' own distillation and with ours, and
writes ``NAME.json``. Weights of an epoch are chosen on val. A killed run goes on from OUT.
"""

from __future__ import annotations

import argparse
import json
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
}


def ours(out: Path, way: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train by recipe; figures of the run."""
    folder = out / f"{way.replace(' ', '')}-{seed}"
    recipe = yaml.safe_load(RECIPE.read_text())
    if way != PLAIN:
        losses = [{**loss, **given.weights.get(loss["kind"], {})} for loss in WAYS[way]]
        recipe["stages"][0]["distill"] = {"teachers": [str(given.teacher)], "losses": losses}
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
        "train": recipe["stages"][0]["train"],
        "imgsz": record["imgsz"],
    }


def theirs(
    out: Path, seed: int, given: argparse.Namespace, like: Mapping[str, Any]
) -> dict[str, Any]:
    """Train by ultralytics' command line with ``distill_model=``, with the settings of ``like``."""
    folder = out / f"ultralytics-{seed}"
    best = folder / "weights" / "best.pt"
    if not (folder / "done").exists():
        settings = {**like["arguments"], "imgsz": like["imgsz"], "seed": seed, "device": "cpu"}
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
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


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
    parser.add_argument("--weights", type=json.loads, default={}, help='{"cwd": {"weight": 2}}')
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
            if way == THEIRS:
                found = theirs(out, seed, given, like)
            else:
                found = ours(out, way, seed, given)
                like = {"arguments": _arguments(out, way, seed), "imgsz": found["imgsz"]}
            results.setdefault(way, []).append(found)
            facts = (
                f"Student {Path(given.student).name}, teacher {given.teacher.name}, "
                f"{given.data.name}, {like['imgsz']} px, {like['arguments']['epochs']} epochs."
            )
            content = {**table(results), "facts": facts, "results": results}
            file.write_text(json.dumps(content, indent=1) + "\n")


def _arguments(out: Path, way: str, seed: int) -> dict[str, Any]:
    """Training arguments of a finished run, with ultralytics' names."""
    folder = out / f"{way.replace(' ', '')}-{seed}"
    record = json.loads((folder / "run.json").read_text())
    stage = next(stage for stage in record["stages"] if stage["name"] == "base")
    arguments = dict(stage["config"]["train"])
    return {**arguments, "nbs": arguments["batch"], "deterministic": True}


if __name__ == "__main__":
    main()
