"""PTQ of official weights against ultralytics' INT8 exports: mAP on val, speed on one thread.

``python docs/results/int8_ptq.py WEIGHTS.pt data.yaml OUT NAME`` runs our recipe, ultralytics' FP32
and INT8 exports for ONNX Runtime and (where nncf is installed) OpenVINO, measures the mAP of every
file and times all of them in one interleaved run, and adds a row a file to ``NAME.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from bench.run import bench_files
from bench.settings import Settings
from compress.models.evaluate import evaluate
from compress.models.quiet import quiet_ultralytics

HERE = Path(__file__).resolve().parent
OURS = {"onnxruntime": "int8-onnxruntime.onnx", "openvino": "int8-openvino.onnx"}
FLOAT = "ultralytics FP32"


def ours(given: argparse.Namespace) -> dict[str, tuple[Path, str]]:
    """Label -> file and runtime, of our recipe: one run a runtime, so that time chooses for it."""
    found = {}
    for runtime, name in OURS.items():
        recipe = {
            "version": 1,
            "model": str(given.weights),
            "data": str(given.data),
            "imgsz": given.imgsz,
            "stages": [
                {"stage": "ptq", "target": runtime, "first_conv": "auto"},
                {"stage": "export", "keep": 1000},
            ],
        }
        file, run = given.out / f"{runtime}.yaml", given.out / runtime
        file.write_text(yaml.safe_dump(recipe, sort_keys=False))
        command = [sys.executable, "-m", "compress", "run", str(file), "--quiet"]
        subprocess.run([*command, "--out", str(run), "--cache", given.out / ".cache"], check=True)
        found[f"ours, {runtime}"] = (next(run.glob("*-export")) / name, runtime)
    return found


def theirs(given: argparse.Namespace) -> dict[str, tuple[Path, str]]:
    """The same of ultralytics' exports, each made once."""
    wanted = {FLOAT: ("onnx", None), "ultralytics INT8 ONNX": ("onnx", 8)}
    if find_spec("nncf"):
        wanted["ultralytics INT8 OpenVINO (NNCF)"] = ("openvino", 8)
    found = {}
    for label, (form, bits) in wanted.items():
        folder = given.out / f"theirs-{form}-{bits or 32}"
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            weights = shutil.copy(given.weights, folder / given.weights.name)
            words = [f"model={weights}", f"format={form}", f"imgsz={given.imgsz}", "device=cpu"]
            words += [] if bits is None else [f"quantize={bits}", f"data={given.data}"]
            subprocess.run(
                [str(Path(sys.executable).parent / "yolo"), "export", *words], check=True
            )
            (folder / "done").touch()
        pattern, runtime = ("*.onnx", "onnxruntime") if form == "onnx" else ("**/*.xml", "openvino")
        files = sorted(folder.glob(pattern), key=lambda path: "int8" in path.name)
        found[label] = (files[-1], runtime)
    return found


def accuracy(path: Path, runtime: str, given: argparse.Namespace) -> dict[str, float]:
    """mAP50 and mAP50-95 on val, of the task's own output."""
    if path.suffix == ".xml":
        from ultralytics import YOLO

        with quiet_ultralytics():
            settings = {"imgsz": given.imgsz, "rect": False, "device": "cpu", "plots": False}
            metrics = YOLO(str(path.parent), task=given.task).val(
                data=str(given.data), batch=1, workers=0, verbose=False, **settings
            )
        metric = metrics.seg if given.task == "segment" else metrics.box
        return {"map50": float(metric.map50), "map50_95": float(metric.map)}
    found = evaluate(path, given.data, given.imgsz, runtime=runtime)  # type: ignore[arg-type]
    return {"map50": found.map50, "map50_95": found.map50_95}


def main() -> None:
    """Make, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--min-seconds", type=float, default=20.0)
    given = parser.parse_args()
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    given.weights, given.data = given.weights.resolve(), given.data.resolve()
    given.task = "segment" if "seg" in given.weights.stem else "detect"
    made = theirs(given)
    made = {FLOAT: made.pop(FLOAT), **made, **ours(given)}
    timed = bench_files(
        [path for path, _ in made.values()],
        Settings(min_seconds=given.min_seconds, min_count=40),
        runtimes=[runtime for _, runtime in made.values()],
        labels=list(made),
    )
    rows = []
    for (label, (path, runtime)), times in zip(made.items(), timed["rows"], strict=True):
        found = accuracy(path, runtime, given)
        rows.append({"model": given.weights.stem, "file": label, **found, **_speed(times)})
        print(rows[-1], flush=True)
    file = HERE / f"{given.name}.json"
    kept = json.loads(file.read_text())["results"] if file.exists() else []
    results = [row for row in kept if row["model"] != given.weights.stem] + rows
    file.write_text(json.dumps({**table(results), "results": results}, indent=1) + "\n")


def _speed(times: Any) -> dict[str, Any]:
    return {"p50_ms": times["latency_ms"]["p50"], "speedup": times["speedup"]}


def table(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One row a file; speed against ultralytics' FP32 ONNX in ONNX Runtime, same run."""
    clean = {row["model"]: row["map50_95"] for row in results if row["file"] == FLOAT}
    rows = [
        [
            row["model"],
            row["file"],
            f"{row['map50_95']:.4f}",
            f"{100 * (row['map50_95'] - clean[row['model']]):+.2f}",
            f"{row['p50_ms']:.1f}",
            f"{row['speedup']:.2f}x",
        ]
        for row in results
    ]
    columns = ["Model", "File", "mAP50-95, val", "Points", "ms, one thread", "Speed"]
    return {"columns": columns, "rows": rows, "facts": "640 px, batch 1, one CPU thread."}


if __name__ == "__main__":
    main()
