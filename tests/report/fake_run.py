"""A run as the pipeline writes it into ``run.json``, with figures of a realistic size."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

EPOCHS = 12
JPEG = b"\xff\xd8\xff\xe0 not a real picture \xff\xd9"
MAPS = {
    "base": (0.905, 0.612),
    "teacher": (0.921, 0.639),
    "prune": (0.412, 0.203),
    "finetune": (0.899, 0.607),
    "qat": (0.897, 0.604),
}
SIZES = {
    "base": (3_011_433, 1_011_712_000),
    "teacher": (11_136_761, 3_571_200_000),
    "prune": (1_024_905, 404_684_800),
    "finetune": (1_024_905, 404_684_800),
    "qat": (1_024_905, 404_684_800),
}
CHAIN = ("base", "prune", "finetune", "qat")


def fake_run() -> dict[str, Any]:
    """A whole run that passed its gates."""
    stages = [
        _checkpoint("base", "train", {"weights": "yolov8n.pt"}, curves=_curves("base")),
        _checkpoint("teacher", "train", {"weights": "yolov8s.pt"}, curves=_curves("teacher")),
        _checkpoint("prune", "prune", {"checkpoint": "base/checkpoint"}, channels=_channels()),
        _checkpoint(
            "finetune",
            "finetune",
            {"checkpoint": "prune/checkpoint", "teacher.0": "teacher/checkpoint"},
            curves=_curves("finetune", "cwd_loss"),
        ),
        _checkpoint(
            "qat", "qat", {"checkpoint": "finetune/checkpoint"}, curves=_curves("qat", "cwd_loss")
        ),
        _export(),
        _bench(),
    ]
    for number, stage in enumerate(stages, start=1):
        stage["folder"] = f"{number:02}-{stage['name']}"
        for file in stage["files"].values():
            file["path"] = f"{stage['folder']}/{file['path']}"
    stages[3]["gates"] = [_gate("map50_95", 0.607, 0.602, "base", True)]
    stages[6]["gates"] = [
        _gate("map50_95", 0.601, 0.597, "base", True),
        _gate("speedup", 3.4, 2.5, "base", True),
        _gate("size_share", 0.0972, 0.1, "base", True),
    ]
    return {
        "schema": 1,
        "recipe": "v8n_lamp_cwd_int8",
        "recipe_file": "recipes/v8n_lamp_cwd_int8.yaml",
        "overrides": ["data=bccd.yaml", "imgsz=320"],
        "seed": 0,
        "imgsz": 320,
        "versions": {"yolo-compress": "0.1.0", "torch": "2.15.0", "ultralytics": "8.4.190"},
        "machine": {
            "cpu": "AMD EPYC 9654",
            "physical_cores": 2,
            "logical_cores": 2,
            "usable_cores": 2,
            "governor": None,
            "turbo": None,
            "virtual": True,
            "memory_bytes": 25_000_000_000,
            "system": "Linux-6.1-x86_64",
            "python": "3.11.7",
            "onnxruntime": "1.30.0",
        },
        "data": {
            "yaml": "bccd.yaml",
            "fingerprint": _sha("data"),
            "names": ["RBC", "WBC", "Platelets"],
            "images": {"train": 205, "val": 87, "test": 72},
        },
        "started": "2026-01-05T09:00:00+00:00",
        "finished": "2026-01-05T09:52:11+00:00",
        "status": "done",
        "stages": stages,
    }


def searched_run() -> dict[str, Any]:
    """A run with a sensitivity stage, pruning in steps, a timed file and a back-off."""
    run = fake_run()
    base, _, prune, finetune = run["stages"][:4]
    prune["config"] |= {"align": 8}
    prune["metrics"] |= {
        "target": {"resource": "latency", "keep": 0.55, "kept": 0.561},
        "macs_kept": 0.437,
        "left_whole": {"model.10": "attention"},
        "timing": {
            "parent_ms": 31.4,
            "ms": 17.6,
            "speedup": 1.784,
            "speedup_ci": [1.741, 1.822],
            "runtime": "onnxruntime",
            "threads": 1,
            "blame": [],
        },
        "steps": [
            {"keep": 0.819, "macs_kept": 0.77, "map50_95": 0.588},
            {"keep": 0.671, "macs_kept": 0.58, "map50_95": 0.557},
            {"keep": 0.55, "macs_kept": 0.437, "map50_95": 0.203},
        ],
    }
    drops = {
        layer: 0.21 / (1 + number * 7 % 58) - 0.004
        for number, layer in enumerate(prune["metrics"]["channels"])
    }
    rows = [{"layer": n, "drop": drop, "map50_95": 0.612 - drop} for n, drop in drops.items()]
    measured = {"sensitivity": {"dense": 0.612, "rows": rows}}
    files = {"sensitivity": ("sensitivity.json", 9_000)}
    sensitivity = _stage(
        "sensitivity", "sensitivity", files, {"checkpoint": "base/checkpoint"}, measured
    )
    sensitivity["folder"] = "03-sensitivity"
    finetune["gates"][0] |= {"value": 0.607}
    trials = [_trial(1, 0.4, 0.588), _trial(2, 0.55, 0.607)]
    return run | {"stages": [base, sensitivity, *run["stages"][1:]], "trials": trials}


def quantized_run() -> dict[str, Any]:
    """A run with a sensitivity stage of INT8, and files that were compared with training."""
    run = fake_run()
    layers = [f"model.{number}.cv1.conv" for number in range(40)]
    rows = [
        {
            "layer": layer,
            "sqnr": 30.0 + number * 7 % 40,
            "map50_95": 0.607 - 0.0001 * number,
            "drop": 0.0001 * number,
            "lost_ms": 0.01 * number - 0.05 if number else None,
        }
        for number, layer in enumerate(layers)
    ]
    measured = {"int8_sensitivity": {"dense": 0.607, "rows": rows}}
    files = {"int8_sensitivity": ("int8_sensitivity.json", 9_000)}
    inputs = {"checkpoint": "finetune/checkpoint"}
    stage = _stage("int8_sensitivity", "int8_sensitivity", files, inputs, measured)
    stage["folder"] = "05-int8_sensitivity"
    worst = {"tensor": "/model.1/act/Mul_output_0", "steps": 0.0034, "worst": 1, "moved": 0.0}
    far = {"tensor": "/model.9/act/Mul_output_0", "steps": 0.21, "worst": 3, "moved": 0.00042}
    run["stages"][5]["metrics"]["tensor_parity"] = {
        "int8-onnxruntime": {
            "tensors": 178,
            "worst_steps": 3,
            "worst": [far | {"sqnr": 38.7}, worst | {"sqnr": 52.1}],
        },
        "int8-tensorrt": {"tensors": 52, "worst_steps": 1, "worst": [worst | {"sqnr": 71.4}]},
    }
    return run | {"stages": [*run["stages"][:4], stage, *run["stages"][4:]]}


def _trial(number: int, keep: float, score: float) -> dict[str, Any]:
    kept_in = {name: f"/runs/.cache/stages/{name}-{number:016}" for name in ("prune", "finetune")}
    return {
        "trial": number,
        "prune": "prune",
        "target": {"latency": keep},
        "achieved": keep + 0.011,
        "stage": "finetune",
        "gates": [_gate("map50_95", score, 0.602, "base", score > 0.602)],
        "passed": score > 0.602,
        "kept_in": kept_in,
    }


def write_run(folder: Path, run: dict[str, Any]) -> Path:
    """Lay out a run folder with ``run.json``, the resolved recipe and the detections."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run))
    planned = [*CHAIN[:1], "teacher", *CHAIN[1:], "export", "bench"]
    listed = "".join(f"  - name: {name}\n" for name in planned)
    (folder / "recipe.yaml").write_text(f"version: 1\nstages:\n{listed}")
    for stage in run["stages"]:
        picture = stage["files"].get("detections")
        if picture:
            file = folder / picture["path"]
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(JPEG)
    return folder


def stopped_after(run: dict[str, Any], name: str, error: str) -> dict[str, Any]:
    """``run`` as it stands after a fault in the stage behind ``name``."""
    names = [stage["name"] for stage in run["stages"]]
    done = run["stages"][: names.index(name) + 1]
    return {**run, "stages": done, "status": "failed", "error": error}


def _checkpoint(name: str, kind: str, inputs: dict[str, str], **extra: Any) -> dict[str, Any]:
    params, macs = SIZES[name]
    map50, map50_95 = MAPS[name]
    measured = {"params": params, "macs": macs, "map50": map50, "map50_95": map50_95}
    files = {"checkpoint": ("model.pt", 4 * params)}
    if kind == "qat":
        files["ranges"] = ("ranges.json", 20_480)
    return _stage(name, kind, files, inputs, measured | extra)


def _export() -> dict[str, Any]:
    files = {name: (f"{name}.onnx", 4 * SIZES[name][0] + 60_000) for name in CHAIN}
    files |= {
        "int8-onnxruntime": ("int8-onnxruntime.onnx", 1_180_000),
        "int8-tensorrt": ("int8-tensorrt.onnx", 4_210_000),
    }
    inputs = {f"checkpoint.{name}": f"{name}/checkpoint" for name in CHAIN}
    return _stage("export", "export", files, inputs | {"ranges": "qat/ranges"}, {})


def _bench() -> dict[str, Any]:
    latencies = {"base": 31.4, "prune": 15.9, "finetune": 15.8, "qat": 15.9}
    rows = [_row(name, name, "fp32", 4 * SIZES[name][0], p50) for name, p50 in latencies.items()]
    rows.append(_row("int8-onnxruntime", "qat", "int8", 1_180_000, 9.23))
    measured = {
        "rows": rows,
        "machine": {"cpu": "AMD EPYC 9654"},
        "settings": {"device": "cpu", "threads": 1, "min_seconds": 5.0, "min_count": 64},
        "warnings": ["the machine is virtual: other guests may disturb the timing"],
        "result": "int8-onnxruntime",
    }
    inputs = {f"graph.{row['graph']}": f"export/{row['graph']}" for row in rows}
    files = {"detections": ("detections.jpg", 84_000), "measurements": ("bench.json", 9_000)}
    return _stage("bench", "bench", files, inputs, {"bench": measured})


def _row(graph: str, stage: str, precision: str, size: int, p50: float) -> dict[str, Any]:
    map50, map50_95 = MAPS[stage]
    lost = 0.003 if precision == "int8" else 0.0
    spread = {"p50": p50, "p90": p50 * 1.06, "p99": p50 * 1.31, "mean": p50 * 1.02}
    return {
        "graph": graph,
        "stage": stage,
        "precision": precision,
        "bytes": size,
        "latency_ms": spread | {"cv": 0.041, "count": 662},
        "fps": 1000 / p50,
        "speedup": 31.4 / p50,
        "map": {
            "val": {"map50": map50 - lost, "map50_95": map50_95 - lost},
            "test": {"map50": map50 - lost - 0.01, "map50_95": map50_95 - lost - 0.008},
        },
    }


def _stage(
    name: str,
    kind: str,
    files: dict[str, tuple[str, int]],
    inputs: dict[str, str],
    measured: dict[str, Any],
) -> dict[str, Any]:
    return {
        "name": name,
        "stage": kind,
        "key": _sha(f"key of {name}"),
        "cached": name == "teacher",
        "seconds": 61.5 + 100 * len(name),
        "files": {
            key: {"path": path, "sha256": _sha(f"{name}/{path}"), "bytes": size}
            for key, (path, size) in files.items()
        },
        "inputs": {key: {"from": origin, "sha256": _sha(origin)} for key, origin in inputs.items()},
        "config": {"stage": kind, "name": name, "role": "teacher" if name == "teacher" else None},
        "metrics": measured,
        "gates": [],
    }


def _gate(metric: str, value: float, limit: float, against: str, passed: bool) -> dict[str, Any]:
    return {
        "metric": metric,
        "value": value,
        "limit": limit,
        "against": against,
        "passed": passed,
        "advice": "train longer (train.epochs)",
    }


def _curves(name: str, *extra: str) -> dict[str, list[float]]:
    decay = [math.exp(-epoch / 4) for epoch in range(EPOCHS)]
    spans = {"box_loss": (0.9, 1.6), "cls_loss": (0.6, 2.4), "dfl_loss": (0.95, 0.8)}
    losses = {
        f"train/{loss}": [round(low + high * share, 4) for share in decay]
        for loss, (low, high) in spans.items()
    }
    losses |= {f"train/{loss}": [round(0.4 + 3 * share, 4) for share in decay] for loss in extra}
    losses |= {
        key.replace("train", "val"): [value * 1.08 for value in values]
        for key, values in list(losses.items())
        if "cwd" not in key
    }
    map50, map50_95 = MAPS[name]
    return losses | {
        "metrics/mAP50(B)": [map50 * (1 - 0.6 * share) for share in decay],
        "metrics/mAP50-95(B)": [map50_95 * (1 - 0.7 * share) for share in decay],
    }


def _channels() -> dict[str, list[int]]:
    widths = [16, 32, 32, 16, 16, 64, 64, 32, 32, 32, 32, 128, 128, 64, 64, 64, 64, 256, 256]
    names = [f"model.{block}.cv{part}" for block in range(0, 22) for part in (1, 2, 3)][:58]
    layers = {}
    for number, name in enumerate(names):
        before = widths[number % len(widths)]
        kept = 0.35 + 0.06 * (number * 7 % 10)
        layers[name] = [before, max(8, int(before * kept) // 8 * 8)]
    return layers


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
