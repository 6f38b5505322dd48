"""Images of the train split with their labels, as ultralytics reads them, without augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from ultralytics.cfg import get_cfg
from ultralytics.data import ClassificationDataset, build_yolo_dataset
from ultralytics.data.utils import check_cls_dataset, check_det_dataset

from compress.models.quiet import quiet_ultralytics
from compress.models.tasks import task_of


@dataclass(frozen=True)
class TrainSamples:
    """Chosen images of a data set. ``arguments`` are ultralytics' defaults, as losses want them."""

    dataset: Any
    indices: tuple[int, ...]
    arguments: Any

    def batches(self, size: int, device: torch.device) -> Iterator[dict[str, Any]]:
        """All of them in batches of at most ``size``, which differ by one image at most.

        ``img`` is (N, 3, imgsz, imgsz) float32, in [0, 1] but for classification; the other keys
        are those of the stock training batch.
        """
        collate = getattr(self.dataset, "collate_fn", default_collate)
        for part in np.array_split(self.indices, self.count(size)):
            batch = collate([self.dataset[int(index)] for index in part])
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            if batch["img"].dtype == torch.uint8:
                batch["img"] = batch["img"].float() / 255
            yield batch

    def count(self, size: int) -> int:
        """Number of batches of at most ``size`` images."""
        return -(-len(self.indices) // size)


def train_samples(model: nn.Module, data: Path, imgsz: int, images: int, seed: int) -> TrainSamples:
    """``images`` of the train split (all, if there are fewer), the same for the same ``seed``.

    Images are letterboxed to squares of ``imgsz`` pixels; labels are those of the model's task.
    """
    task = task_of(model).name
    with quiet_ultralytics():
        arguments = get_cfg(overrides={"task": task, "imgsz": imgsz, "data": str(data)})
        if task == "classify":
            info = check_cls_dataset(str(data))
            dataset = ClassificationDataset(info["train"], arguments, names=info["names"])
        else:
            info = check_det_dataset(str(data))
            # every mode but "train" reads images as they are
            dataset = build_yolo_dataset(arguments, info["train"], 1, info, mode="val", rect=False)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:images]
    return TrainSamples(dataset, tuple(chosen.tolist()), arguments)


def torch_device(device: str) -> torch.device:
    """The device that a recipe names: ``cpu``, ``mps``, ``cuda``, or the number of a GPU."""
    return torch.device(f"cuda:{device}" if device.isdigit() else device)
