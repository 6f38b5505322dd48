"""A net of each task, its exported file and the bundle of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drawn_tasks import draw_task_data
from small_nets import IMGSZ
from task_nets import TASKS, task_net

from compress.models.exportable import export_metadata, exportable
from compress.models.head_form import HeadForm
from deploy.graph_facts import Thresholds
from deploy.pack import write_bundle
from export.float_onnx import export_float

LIMITS = Thresholds(score=0.5, iou=0.6, max_boxes=40)
FORMS = {
    "": HeadForm(),
    "sparse": HeadForm(keep=60),
    "nms": HeadForm("nms", keep=60, iou=LIMITS.iou, score=LIMITS.score, max_boxes=LIMITS.max_boxes),
}


@dataclass(frozen=True)
class Bundled:
    """``images`` are drawn pictures, wider than high and the other way round."""

    task: str
    onnx: Path
    folder: Path
    images: list[Path]


def make_bundle(root: Path, head: str) -> Bundled:
    """Export a net with ``head`` and bundle it.

    ``head`` is of ``task_nets``; behind it may stand how the graph ends: ``-sparse`` or ``-nms``.
    """
    head, _, end = head.partition("-")
    form = FORMS[end]
    task = TASKS[head]
    draw_task_data(root / "data", task)
    net = task_net(root, head, root / "data")
    onnx = root / f"{head}.onnx"
    export_float(exportable(net, form), IMGSZ, onnx, 17, export_metadata(net, IMGSZ, form))
    write_bundle(onnx, "onnxruntime", root / "bundle", LIMITS)
    return Bundled(task, onnx, root / "bundle", _pictures(root))


def _pictures(root: Path) -> list[Path]:
    """Three of the drawn images, two of them cut."""
    import cv2

    files = sorted((root / "data" / "images" / "val").glob("*.png"))[:3]
    for file, (height, width) in zip(files, ((96, 61), (50, 96), (96, 96)), strict=True):
        cv2.imwrite(str(file), cv2.imread(str(file))[:height, :width])
    return files
