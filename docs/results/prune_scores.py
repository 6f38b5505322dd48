"""Importance scores against each other: equal cut, equal finetune, several seeds.

``python docs/results/prune_scores.py best.pt data.yaml OUT`` prunes ``best.pt`` by each score to
the target of ``prune_scores.yaml``, finetunes it, and trains the dense net for the same epochs;
then ``prune_scores.json`` is written. A killed run goes on from the cache in ``OUT``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.models.checkpoint import load_checkpoint
from compress.models.evaluate import evaluate

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "prune_scores.yaml"
DENSE = "dense, trained on"
SCORES = ("lamp", "l2", "bn_scale", "taylor", "random")


def run(out: Path, model: Path, data: Path, score: str, seed: int, more: Sequence[str]) -> Path:
    """One chain; gives its run folder."""
    folder = out / f"{score}-{seed}"
    recipe = RECIPE
    overrides = [f"model={model}", f"data={data}", f"seed={seed}", *more]
    if score == DENSE:
        folder = out / f"dense-{seed}"
        recipe = out / "dense.yaml"
        recipe.write_text(_without_prune(RECIPE.read_text()))
    else:
        overrides.append(f"prune.importance={score}")
    command = [sys.executable, "-m", "compress", "run", str(recipe), *overrides]
    subprocess.run([*command, "--out", str(folder), "--cache", str(out / ".cache")], check=True)
    return folder


def _without_prune(text: str) -> str:
    before, _, rest = text.partition("  - stage: prune")
    return before + rest[rest.index("  - stage: finetune") :]


def measured(folder: Path, data: Path) -> dict[str, Any]:
    """Figures of one finished chain; test mAP of the weights that val chose."""
    record = json.loads((folder / "run.json").read_text())
    stages = {stage["name"]: stage for stage in record["stages"]}
    last = stages["finetune"]
    checkpoint = load_checkpoint(folder / last["files"]["checkpoint"]["path"])
    test = evaluate(checkpoint, data, record["imgsz"], "test")
    cut = stages.get("prune", {}).get("metrics", {})
    return {
        "cut_val": cut.get("map50_95"),
        "macs_kept": cut.get("macs_kept", 1.0),
        "params": last["metrics"]["params"],
        "val": last["metrics"]["map50_95"],
        "test": test.map50_95,
    }


def table(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean and spread (sample standard deviation) over seeds, in mAP50-95."""
    rows = [
        [
            name,
            f"{found[0]['params'] / 1e6:.2f} M",
            f"{statistics.mean(f['macs_kept'] for f in found):.3f}",
            _spread([f["cut_val"] for f in found]),
            _spread([f["val"] for f in found]),
            _spread([f["test"] for f in found]),
        ]
        for name, found in results.items()
    ]
    columns = ["Score", "Params", "MACs kept", "val after cut", "val", "test"]
    return {"columns": columns, "rows": rows}


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = statistics.stdev(known) if len(known) > 1 else 0.0
    return f"{statistics.mean(known):.3f} ± {spread:.3f}"


def main() -> None:
    """Run what is not in the cache, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scores", nargs="+", default=[DENSE, *SCORES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the recipe")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    model, data, out = given.model.resolve(), given.data.resolve(), given.out.resolve()
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in given.seeds:
        for score in given.scores:
            folder = run(out, model, data, score, seed, given.set)
            results.setdefault(score, []).append(measured(folder, data))
    facts = f"{model.name}, {data.name}, seeds {', '.join(map(str, given.seeds))}; mAP50-95."
    content = {**table(results), "facts": facts, "results": results}
    (HERE / "prune_scores.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
