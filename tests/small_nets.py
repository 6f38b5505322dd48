"""Small nets and a drawn data set: real, but trained and exported in a second."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from compress.models.build import build_model
from compress.progress import Task
from compress.prune.cost import keep_share
from compress.prune.prune import prune_model
from compress.prune.solver import Rules
from compress.quantize.calibration import calibrate
from compress.quantize.prepare import simulate
from compress.quantize.simulation import Simulation

NAMES = {0: "square", 1: "disc", 2: "bar"}
IMGSZ = 64
_SIDE = 96  # pixels of a drawn image

_YAML = """\
nc: 3
depth_multiple: 0.33
width_multiple: {width}
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 3, C2f, [128, True]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 3, C2f, [256, True]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [-1, 3, C2f, [512, True]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [-1, 3, C2f, [512, True]]
  - [-1, 1, SPPF, [512, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 3, C2f, [512]]
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 3, C2f, [256]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [[-1, 12], 1, Concat, [1]]
  - [-1, 3, C2f, [512]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [[-1, 9], 1, Concat, [1]]
  - [-1, 3, C2f, [512]]
  - [[15, 18, 21], 1, Detect, [nc]]
"""


def write_net_yaml(path: Path, width: float) -> Path:
    """A YOLOv8 of this width as a model yaml."""
    path.write_text(_YAML.format(width=width))
    return path


def draw_data(root: Path) -> Path:
    """Draw the data set under ``root``; gives its yaml."""
    random = np.random.default_rng(0)
    for split, count in {"train": 16, "val": 8, "test": 4}.items():
        for number in range(count):
            _draw_image(root, split, number, random)
    names = "".join(f"  {index}: {name}\n" for index, name in NAMES.items())
    yaml = root / "data.yaml"
    yaml.write_text(f"train: images/train\nval: images/val\ntest: images/test\nnames:\n{names}")
    return yaml


def _draw_image(root: Path, split: str, number: int, random: np.random.Generator) -> None:
    image = random.integers(0, 80, (_SIDE, _SIDE, 3)).astype(np.uint8)
    rows = []
    for kind in random.integers(0, 3, int(random.integers(1, 4))):
        size = int(random.integers(16, 40))
        x, y = (int(random.integers(0, _SIDE - size)) for _ in range(2))
        color = tuple(int(c) for c in random.integers(120, 256, 3))
        height = size // 3 if kind == 2 else size
        if kind == 1:
            cv2.circle(image, (x + size // 2, y + size // 2), size // 2, color, -1)
        else:
            cv2.rectangle(image, (x, y), (x + size, y + height), color, -1)
        box = ((x + size / 2) / _SIDE, (y + height / 2) / _SIDE, size / _SIDE, height / _SIDE)
        rows.append(f"{kind} " + " ".join(f"{value:.5f}" for value in box))
    for folder in ("images", "labels"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "images" / split / f"{number:02}.png"), image)
    (root / "labels" / split / f"{number:02}.txt").write_text("\n".join(rows) + "\n")


def settled_net(yaml: Path, images: Tensor, seed: int = 0) -> nn.Module:
    """A net whose BatchNorms differ from each other and fit ``images``, in eval mode.

    It knows nothing, but finds boxes of all classes and sizes.
    """
    model = build_model(yaml, NAMES, seed)
    torch.manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.3)
        norm.momentum = None  # plain averages over the passes below
    bins = torch.arange(16.0)
    for boxes, classes in zip(model.model[-1].cv2, model.model[-1].cv3, strict=True):
        boxes[-1].weight.data.normal_(0, 0.1)
        boxes[-1].bias.data = torch.cat([-(bins - 1.5).abs()] * 4)  # about three strides wide
        classes[-1].weight.data.normal_(0, 0.3)
        classes[-1].bias.data.zero_()  # scores around one half, not around nothing
    with torch.no_grad():
        model.train()
        for _ in range(2):
            model(images)
    for norm in norms:
        norm.momentum = 0.03
    return model.eval().requires_grad_(False)


def pruned_copy(model: nn.Module, keep: float, align: int = 4) -> nn.Module:
    """A copy that keeps this share of its MACs."""
    return prune_model(model, keep_share(model, IMGSZ, "macs", keep), Rules(align=align)).model


def output_of(model: nn.Module, images: Tensor) -> Tensor:
    """Decoded output (N, 4 + classes, cells) in eval mode."""
    with torch.no_grad():
        decoded = model.eval()(images)
    return decoded[0] if isinstance(decoded, tuple) else decoded


def calibrated(
    model: nn.Module, batches: Iterable[Tensor], float_layers: Sequence[str] = ()
) -> Simulation:
    """A fused copy under simulation, its ranges the extremes on ``batches``."""
    simulation = simulate(model, IMGSZ, float_layers)
    calibrate(simulation, batches, "minmax", 100.0)
    return simulation


class Silent:
    """Progress that shows nothing, and remembers what it was told to."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int]] = []

    def say(self, message: str) -> None:
        del message

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        self.tasks.append((title, total))
        yield _SilentTask()


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        del steps, note
