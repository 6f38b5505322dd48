"""Run every family and task through pruning and all that stock ultralytics does with the result.

``python docs/results/families.py`` builds each model from its yaml with three classes, prunes it
to half its MACs and then: forward, one training epoch, export to ONNX and comparison with ONNX
Runtime, save and load, and validation in a Python that cannot import this package. The outcome
goes to ``families.json`` beside this file, and as a table into ``docs/families.md``. ``--table``
only writes the table anew; names of model yamls run these alone and keep the other rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn
from ultralytics import __version__ as ultralytics_version

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # for the drawn data

from drawn_tasks import COUNTS, KEYPOINTS, NAMES, draw_task_data  # noqa: E402

from compress.models.build import build_model  # noqa: E402
from compress.models.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from compress.models.evaluate import evaluate, evaluate_classes  # noqa: E402
from compress.models.exportable import export_metadata, exportable  # noqa: E402
from compress.models.inspect import conv_widths, count_macs, count_params, is_end_to_end  # noqa: E402
from compress.models.tasks import task_of  # noqa: E402
from compress.models.trainer import TrainingJob, train  # noqa: E402
from compress.progress import ConsoleProgress  # noqa: E402
from compress.prune.cost import keep_share  # noqa: E402
from compress.prune.prune import prune_model  # noqa: E402
from compress.prune.solver import Rules  # noqa: E402
from export.float_onnx import export_float  # noqa: E402

RESULT, DOCUMENT = HERE / "families.json", ROOT / "docs" / "families.md"
KEEP, ALIGN, IMGSZ = 0.5, 8, 64
WORST = 0.01  # of any output, as float rounding explains it
_COLUMNS = (
    *("family", "model", "task", "MACs kept", "parameters", "left whole"),
    *("val", "train", "ONNX", "spread", "reload"),
)
TRAINING = {"epochs": 1, "batch": 8, "optimizer": "AdamW", "lr0": 1e-4}
FAMILIES = {
    "YOLOv3u": ("yolov3-tiny", "yolov3", "yolov3-spp"),
    "YOLOv5u": ("yolov5n", "yolov5n-p6"),
    "YOLOv6": ("yolov6n",),
    "YOLOv8": (
        *("yolov8n", "yolov8n-p2", "yolov8n-p6"),
        *("yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls"),
    ),
    "YOLOv9": ("yolov9t", "yolov9s", "yolov9c", "yolov9e"),
    "YOLOv10": ("yolov10n", "yolov10s"),
    "YOLO11": ("yolo11n", "yolo11n-seg", "yolo11n-pose", "yolo11n-obb", "yolo11n-cls"),
    "YOLO12": ("yolo12n", "yolo12n-seg", "yolo12n-pose", "yolo12n-obb", "yolo12n-cls"),
    "YOLO26": ("yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolo26n-cls"),
}

# runs in a Python where importing this package is an error
_STOCK_VAL = """\
import json, sys
sys.modules.update(compress=None, export=None, bench=None)
import torch
from ultralytics import YOLO
images = torch.load("images.pt")
for line in sys.stdin:
    job = json.loads(line)
    try:
        metrics = YOLO(job["model"]).val(
            data=job["data"], imgsz=job["imgsz"], batch=16, rect=False, device="cpu", workers=0,
            plots=False, verbose=False, nms=job["nms"], project=job["project"],
        )
        found = {key: float(value) for key, value in metrics.results_dict.items()}
        with torch.no_grad():
            torch.save(YOLO(job["model"]).model.float().eval()(images)[0], job["outputs"])
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print("RESULT " + json.dumps({"name": job["name"], "found": found}), flush=True)
"""


def run_row(family: str, name: str, folder: Path) -> dict[str, Any]:
    """All steps for one model yaml; those that failed say why."""
    start = time.monotonic()
    dense = build_model(Path(f"{name}.yaml"), _names(name), 0, KEYPOINTS)
    _settle(dense)
    task = task_of(dense).name
    data = _data(folder, task)
    pruned = prune_model(dense, keep_share(dense, IMGSZ, "macs", KEEP), Rules(align=ALIGN))
    planned = time.monotonic() - start
    model, images = pruned.model, _images(folder)
    _fit_norms(model)  # as the prune stage does: else little of the image reaches the outputs
    job = TrainingJob(data, COUNTS["train"], IMGSZ, 0, "cpu", 0, folder / name, TRAINING)
    trained = train(_copy(model, folder), job, ConsoleProgress(quiet=True), name)
    model.load_state_dict(trained.weights)
    save_checkpoint(model, folder / f"{name}-pruned.pt")
    again = load_checkpoint(folder / f"{name}-pruned.pt")
    measure = evaluate_classes if task == "classify" else evaluate
    return {
        "family": family,
        "model": name,
        "task": task,
        "left_whole": dict(pruned.left_whole),
        "macs_kept": count_macs(model, IMGSZ) / count_macs(dense, IMGSZ),
        "params": [count_params(dense), count_params(model)],
        "unaligned": sum(width % ALIGN != 0 for width in conv_widths(model).values()),
        "train": all(np.isfinite(curve).all() for curve in trained.curves.values()),
        "onnx_difference": onnx_difference(model, images[:1], folder / f"{name}.onnx"),
        "spread": spread(model, images),
        "reload": all(
            torch.equal(one, other)
            for one, other in zip(_outputs(model, images), _outputs(again, images), strict=True)
        ),
        "accuracy": vars(measure(model, data, IMGSZ)),
        "end_to_end": is_end_to_end(model),
        "plan_seconds": round(planned, 1),
        "seconds": round(time.monotonic() - start, 1),
    }


def _settle(model: nn.Module) -> None:
    """Let BatchNorms fit some images and scores differ from cell to cell, as in a trained net.

    A fresh net says nearly the same everywhere, so that rounding decides how detections are sorted.
    """
    torch.manual_seed(0)
    _fit_norms(model)
    for branches in (getattr(model.model[-1], name, None) for name in ("cv3", "one2one_cv3")):
        for branch in branches or ():
            nn.init.normal_(branch[-1].weight, std=0.5)
            nn.init.zeros_(branch[-1].bias)


def _fit_norms(model: nn.Module) -> None:
    """Running statistics of BatchNorms from one batch of noise."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # plain average
    with torch.no_grad():
        model.train()(torch.rand(8, 3, IMGSZ, IMGSZ, generator=torch.manual_seed(1)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _images(folder: Path) -> Tensor:
    """(2, 3, IMGSZ, IMGSZ), the same for all rows and for stock ultralytics."""
    file = folder / "images.pt"
    if not file.exists():
        torch.save(torch.rand(2, 3, IMGSZ, IMGSZ, generator=torch.manual_seed(0)), file)
    return torch.load(file)


def _names(name: str) -> dict[int, str]:
    """Of class folders the order is the alphabet's."""
    return dict(enumerate(sorted(NAMES.values()))) if name.endswith("-cls") else NAMES


def _data(folder: Path, task: str) -> Path:
    root = folder / "data" / task
    if not root.exists():
        draw_task_data(root, task)
    return root if task == "classify" else root / "data.yaml"


def spread(model: nn.Module, images: Tensor) -> float:
    """Least of all outputs: by how much it differs, at most, from one image to the other.

    What does not depend on the image proves nothing when it is found equal.
    """
    return min(float((output[0] - output[1]).abs().max()) for output in _outputs(model, images))


def _copy(model: nn.Module, folder: Path) -> nn.Module:
    """Through a file: what is trained on is what a stage would load."""
    save_checkpoint(model, folder / "student.pt")
    return load_checkpoint(folder / "student.pt")


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        output = model(images)
    return _flat(output[0] if isinstance(output, tuple) else output)


def _flat(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [t for part in output for t in _flat(part)]


def onnx_difference(model: nn.Module, image: Tensor, path: Path) -> float:
    """Largest difference of any output of the exported file, in units of the output.

    Detections of an end-to-end head are a sorted list, where equal scores may swap places: each is
    compared with its nearest.
    """
    view = exportable(model)
    with torch.no_grad():
        expected = _flat(view(image))
    export_float(view, IMGSZ, path, metadata=export_metadata(model, IMGSZ))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    actual = [torch.from_numpy(a) for a in session.run(None, {"images": image.numpy()})]
    matched = [is_end_to_end(model), *[False] * (len(expected) - 1)]
    return max(
        _nearest(one[0], other[0]) if listed else float((one - other).abs().max())
        for one, other, listed in zip(expected, actual, matched, strict=True)
    )


def _nearest(rows: Tensor, others: Tensor) -> float:
    distances = (rows[:, None] - others[None]).abs().amax(2)
    return float(max(distances.amin(0).max(), distances.amin(1).max()))


def stock_val(rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """What ultralytics alone finds of each row's checkpoint."""
    jobs = [
        {
            "name": row["model"],
            "model": str(folder / f"{row['model']}-pruned.pt"),
            "data": str(_data(folder, row["task"])),
            "imgsz": IMGSZ,
            "nms": False if row["end_to_end"] else None,
            "project": str(folder / "val"),
            "outputs": str(folder / f"{row['model']}.outputs.pt"),
        }
        for row in rows
    ]
    done = subprocess.run(
        [sys.executable, "-c", _STOCK_VAL],
        input="\n".join(map(json.dumps, jobs)),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = [json.loads(line.removeprefix("RESULT ")) for line in lines]
    return {each["name"]: each["found"] for each in found}


def same_function(row: dict[str, Any], folder: Path) -> bool:
    """Whether stock ultralytics computes from the checkpoint what this package does."""
    file = folder / f"{row['model']}.outputs.pt"
    if not file.exists():
        return False
    ours = _outputs(load_checkpoint(folder / f"{row['model']}-pruned.pt"), _images(folder))
    theirs = _flat(torch.load(file))
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def agrees(accuracy: dict[str, Any], stock: dict[str, Any]) -> bool:
    """Whether stock ultralytics' figures hold those that were measured here."""
    return "error" not in stock and all(
        any(abs(value - other) < 1e-3 for other in stock.values()) for value in _figures(accuracy)
    )


def _figures(accuracy: dict[str, Any]) -> list[float]:
    return [value for value in accuracy.values() if isinstance(value, float)]


def run_all(names: Sequence[str]) -> None:
    """Run the rows asked for and write them into the result."""
    old = json.loads(RESULT.read_text())["rows"] if names and RESULT.exists() else []
    kept = {row["model"]: row for row in old}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for family, models in FAMILIES.items():
            for name in models:
                if names and name not in names:
                    continue
                try:
                    rows.append(run_row(family, name, Path(place)))
                    print(f"{name}: {rows[-1]['seconds']} s", flush=True)
                except Exception as error:  # a row that fails is a result too
                    kept[name] = {"family": family, "model": name, "error": str(error)[:300]}
                    print(f"{name}: failed: {error}", flush=True)
        found = stock_val(rows, Path(place))
        for row in rows:
            stock = found.get(row["model"], {"error": "no result"})
            sound = agrees(row["accuracy"], stock) and same_function(row, Path(place))
            kept[row["model"]] = {**row, "stock": stock, "val": sound}
    ordered = [kept[name] for models in FAMILIES.values() for name in models if name in kept]
    settings = {"keep": KEEP, "align": ALIGN, "imgsz": IMGSZ, "ultralytics": ultralytics_version}
    RESULT.write_text(json.dumps({"settings": settings, "rows": ordered}, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """The document, from the recorded rows."""
    settings, rows = result["settings"], result["rows"]
    unskilled = sum(_figures(row.get("accuracy", {}))[:1] == [0.0] for row in rows)
    lines = [
        "# Families and tasks",
        "",
        "Written by `python docs/results/families.py`, which runs every row. Each model is built "
        f"from its yaml with {len(NAMES)} classes, pruned to {settings['keep']:.0%} of its MACs at "
        f"{settings['imgsz']} px in blocks of {settings['align']} channels, then trained for one "
        "epoch on drawn images, saved, loaded, exported and validated.",
        "",
        "*val*: stock ultralytics "
        f"{settings['ultralytics']}, in a Python without this package, validates the checkpoint "
        "with the same figures, and its outputs are equal, bit for bit. One epoch teaches little: "
        f"the figure is 0 in {unskilled} of {len(rows)} rows, so it is the outputs that show it. "
        "*train*: one epoch with finite losses. *ONNX*: largest difference between PyTorch and "
        "ONNX Runtime in any output (pixels for boxes). *reload*: outputs of the loaded checkpoint "
        "are equal, bit for bit. *spread*: by how much outputs differ between two images (least "
        "of all outputs); where they do not, equality would prove nothing and is not counted. "
        "*left whole*: blocks whose channels (or some) are not pruned.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'-|' * len(_COLUMNS)}",
        *map(_line, rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {row['family']} | {row['model']} | | | | failed: {row['error']} | | | | | |"
    before, after = (f"{count / 1e6:.2f} M" for count in row["params"])
    whole = "; ".join(f"{name}: {why}" for name, why in row["left_whole"].items()) or "none"
    ok = {True: "ok", False: "**no**"}
    varies = row["spread"] > 0
    close = varies and row["onnx_difference"] <= min(WORST, row["spread"])
    cells = [
        *(row["family"], row["model"], row["task"]),
        f"{row['macs_kept']:.1%}",
        f"{before} → {after}",
        *(whole, ok[row["val"] and varies], ok[row["train"]]),
        f"{row['onnx_difference']:.0e}" + ("" if close else " **no**"),
        f"{row['spread']:.0e}",
        ok[row["reload"] and varies],
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="model yamls without .yaml; all by default")
    parser.add_argument("--table", action="store_true", help="only write the table anew")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.table:
        run_all(arguments.models)
    DOCUMENT.write_text(table(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
