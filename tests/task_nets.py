"""Small nets for every task and head, with BatchNorms that fit the drawn images."""

from __future__ import annotations

from pathlib import Path

import torch
from drawn_tasks import KEYPOINTS, NAMES
from small_nets import IMGSZ, write_net_yaml
from torch import nn

from compress.models.build import build_model
from compress.models.images import load_image

_LEVELS = "[[15, 18, 21], 1, {}]"
_END_TO_END = "end2end: True\nreg_max: 1\n"
# head -> its line in the yaml, and the keys it needs beside it
HEADS = {
    "Detect": ("Detect, [nc]", ""),
    "Segment": ("Segment, [nc, 8, 64]", ""),
    "Pose": ("Pose, [nc, kpt_shape]", f"kpt_shape: {list(KEYPOINTS)}\n"),
    "OBB": ("OBB, [nc, 1]", ""),
    "v10Detect": ("v10Detect, [nc]", ""),
    "Detect26": ("Detect, [nc]", _END_TO_END),
    "Segment26": ("Segment26, [nc, 8, 64]", _END_TO_END),
    "Pose26": ("Pose26, [nc, kpt_shape]", f"{_END_TO_END}kpt_shape: {list(KEYPOINTS)}\n"),
    "OBB26": ("OBB26, [nc, 1]", _END_TO_END),
    "Classify": ("", ""),
}
TASKS = {
    "Detect": "detect",
    "v10Detect": "detect",
    "Detect26": "detect",
    "Segment": "segment",
    "Segment26": "segment",
    "Pose": "pose",
    "Pose26": "pose",
    "OBB": "obb",
    "OBB26": "obb",
    "Classify": "classify",
}


def write_task_yaml(path: Path, head: str) -> Path:
    """The YOLOv8 of ``small_nets`` with another head; a classifier has its backbone alone."""
    text = write_net_yaml(path, width=0.125).read_text()
    line, keys = HEADS[head]
    if head == "Classify":
        text = text.partition("head:")[0] + "head:\n  - [-1, 1, Classify, [nc]]\n"
    else:
        text = text.replace(_LEVELS.format("Detect, [nc]"), _LEVELS.format(line))
    path.write_text(keys + text)
    return path


def task_net(folder: Path, head: str, images: Path) -> nn.Module:
    """A net that knows nothing, but whose scores differ from cell to cell, in eval mode."""
    names = dict(enumerate(sorted(NAMES.values()))) if head == "Classify" else NAMES
    model = build_model(write_task_yaml(folder / f"{head}.yaml", head), names, 0, KEYPOINTS)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.manual_seed(0)
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.3)
        norm.momentum = None
    pictures = sorted(images.rglob("*.png"))[:8]
    with torch.no_grad():
        model.train()(torch.cat([load_image(picture, IMGSZ) for picture in pictures]))
    for norm in norms:
        norm.momentum = 0.03
    head = model.model[-1]
    for prefix in ("", "one2one_"):
        _wake(getattr(head, f"{prefix}cv2", None), getattr(head, f"{prefix}cv3", None))
    return model.eval().requires_grad_(False)


def _wake(boxes: nn.ModuleList | None, classes: nn.ModuleList | None) -> None:
    """Boxes about three strides wide, scores around one half."""
    for level in boxes or ():
        bins = torch.arange(level[-1].out_channels / 4)
        nn.init.normal_(level[-1].weight, std=0.02)
        level[-1].bias.data = torch.cat([-(bins - 1.5).abs() if len(bins) > 1 else bins + 1.5] * 4)
    for level in classes or ():
        nn.init.normal_(level[-1].weight, std=0.05)
        nn.init.zeros_(level[-1].bias)
