"""Ways to INT8 against each other on one float model: same data, several seeds, test mAP.

``python docs/results/int8_ways.py FLOAT.pt data.yaml OUT NAME`` quantizes FLOAT.pt by PTQ, QAT and
QAT under distillation by the float model itself, exports each for ONNX Runtime and OpenVINO, and
writes ``NAME.json``. A killed run goes on from OUT.
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

HERE = Path(__file__).resolve().parent
_KD = {"losses": [{"kind": "cwd"}, {"kind": "bckd"}]}
_PTQ = {"stage": "ptq", "bias_correction": True}
_QAT = {"stage": "qat"}
_FOUR = {"weight_bits": 4}
_LEARNED = {**_FOUR, "weight_scales": "learned"}
WAYS: Mapping[str, dict[str, Any]] = {
    "PTQ": _PTQ,
    "QAT": _QAT,
    "QAT under KD": {**_QAT, "distill": _KD},
    "4-bit weights, PTQ": {**_PTQ, **_FOUR},
    "4-bit weights, QAT": {**_QAT, **_LEARNED},
    "4-bit weights, QAT under KD": {**_QAT, **_LEARNED, "distill": _KD},
}
FLOAT = "base"  # the row of the float model
TARGETS = ["onnxruntime", "openvino"]
TRAIN = {
    "batch": 16,
    "optimizer": "AdamW",
    "lr0": 0.00002,
    "warmup_epochs": 0,
    "mosaic": 0.0,
    "close_mosaic": 0,
}


def recipe_of(way: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """The recipe of one run."""
    quantize = {**WAYS[way], "target": TARGETS, "first_conv": "float"}
    if quantize["stage"] == "qat":
        lr0 = given.lr0_4bit if "weight_bits" in quantize else TRAIN["lr0"]
        quantize["train"] = {**TRAIN, "lr0": lr0, "epochs": given.epochs}
    bench = {"stage": "bench", "splits": ["val", "test"], "min_seconds": 2.0, "min_count": 64}
    return {
        "version": 1,
        "model": str(given.model),
        "data": str(given.data),
        "imgsz": given.imgsz,
        "seed": seed,
        "workers": 0,
        # what a way costs is the question here, so nothing is refused for it
        "stages": [
            quantize,
            {"stage": "export", "targets": TARGETS},
            {**bench, "accept": {"never_slower": False}},
        ],
    }


def measured(way: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Figures of one run: the chain by ``compress run``, then its record."""
    name = f"{re.sub('[^a-z0-9]+', '-', way.lower())}-{seed}"
    file = given.out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe_of(way, seed, given), sort_keys=False))
    command = [sys.executable, "-m", "compress", "run", str(file), "--quiet"]
    folder = given.out / name
    subprocess.run([*command, "--out", str(folder), "--cache", given.out / ".cache"], check=True)
    stages = {s["stage"]: s for s in json.loads((folder / "run.json").read_text())["stages"]}
    quantized = stages.get("qat") or stages["ptq"]
    rows = {row["graph"]: row for row in stages["bench"]["metrics"]["bench"]["rows"]}
    return {
        "simulated": quantized["metrics"]["map50_95"],
        "seconds": quantized.get("seconds"),
        **{f"{FLOAT} {split}": rows[FLOAT]["map"][split]["map50_95"] for split in ("val", "test")},
        **{
            f"{target} {split}": rows[f"int8-{target}"]["map"][split]["map50_95"]
            for target in TARGETS
            for split in ("val", "test")
        },
    }


def table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Mean and spread (sample standard deviation) over seeds; points are 0.01 of mAP50-95."""
    some = next(iter(results.values()))[0]
    clean = some[f"{FLOAT} test"]
    rows = [["float", "1", f"{some[f'{FLOAT} val']:.4f}", *[f"{clean:.4f}"] * 2, "", ""]]
    for way, found in results.items():
        gaps = [f["simulated"] - f[f"{target} val"] for f in found for target in TARGETS]
        rows.append(
            [
                way,
                str(len(found)),
                _spread([f["simulated"] for f in found]),
                *(_spread([f[f"{target} test"] for f in found]) for target in TARGETS),
                _spread([100 * (f["onnxruntime test"] - clean) for f in found], "+.2f"),
                f"{100 * max(gaps, key=abs):+.2f}",
            ]
        )
    columns = [
        "Way",
        "Seeds",
        "Simulated, val",
        "ONNX Runtime file, test",
        "OpenVINO file, test",
        "Points to float, test (ONNX Runtime)",
        "Largest gap simulated - deployed, val, points",
    ]
    return {"columns": columns, "rows": rows}


def _spread(values: Sequence[float], form: str = ".4f") -> str:
    mean = format(statistics.mean(values), form)
    if len(values) < 2:
        return mean
    return f"{mean} ± {format(statistics.stdev(values), form.lstrip('+'))}"


def main() -> None:
    """Run what is not done yet, seed by seed; the table is written after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--lr0-4bit", type=float, default=0.0002)
    given = parser.parse_args()
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    given.model, given.data = given.model.resolve(), given.data.resolve()
    facts = (
        f"{given.model.stem} on {given.data.name}, {given.imgsz} px; QAT {given.epochs} epochs, "
        f"batch {TRAIN['batch']}, {TRAIN['optimizer']} {TRAIN['lr0']:g} "
        f"({given.lr0_4bit:g} for 4 bits); first convolution float."
    )
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in given.seeds:
        for way in given.ways:
            results.setdefault(way, []).append(measured(way, seed, given))
            content = {**table(results), "facts": facts, "results": results}
            (HERE / f"{given.name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
