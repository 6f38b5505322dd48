"""Images without labels, added to every batch of a training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from ultralytics.data.build import seed_worker
from ultralytics.data.dataset import YOLODataset

from compress.data.dataset import list_images
from compress.errors import CompressError
from compress.models.trainer import TrainingExtension, TrainingRun

LABELLED = "labelled"  # key of a batch: how many of its images, the first ones, have labels
_PAD = 114  # grey, as ultralytics pads
_OTHER_ORDER = 50_000  # so that images which are in both sets do not come in the same order


class UnlabeledImages(TrainingExtension):
    """Appends unlabeled images, augmented like the labelled ones, to each batch.

    Labels stay those of the first ``batch[LABELLED]`` images. The order of the images and their
    augmentation depend on seed and epoch alone, exactly so without loading workers.
    """

    def __init__(self, images: Path, batch: int | None, seed: int, workers: int) -> None:
        """Take ``batch`` images (by default the training's batch) of a folder or a ``.txt`` list.

        Raises:
            CompressError: if there is no such folder or list, or no image in it.
        """
        self.images = list_images(images) if images.exists() else []
        if not self.images:
            raise CompressError(
                f"Unlabeled images: no image in {images}. Give `unlabeled: images:` a folder with "
                "images, or a .txt that lists them"
            )
        self.batch = batch
        self.seed = seed
        self.workers = workers
        self.generator = torch.Generator()
        self.plain = False
        self.stream: Iterator[Tensor] | None = None

    def begin(self, run: TrainingRun) -> None:
        """Build the data set and its loader."""
        self.asked_batch = run.asked_batch
        self.device = run.device
        self.arguments = run.arguments
        self.plain_from = run.epochs - run.arguments.close_mosaic  # of mixup too, without mosaic
        self.rank = run.rank
        batch = max((self.batch or run.asked_batch) // run.ranks, 1)  # a share, as of all
        self.dataset = _Pictures(self.images, batch, run.arguments)
        # ultralytics allows no workers on a CPU
        workers = min(self.workers, int(run.arguments.workers), os.cpu_count() or 1)
        self.loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_size=batch,
            sampler=_EndlessShuffle(len(self.dataset), self.generator),
            num_workers=workers,
            collate_fn=_stack,
            pin_memory=run.device.type == "cuda",
            worker_init_fn=seed_worker,
            generator=self.generator,
        )

    def start_epoch(self, epoch: int) -> None:
        """Seed the order; end mosaic and its kind where the labelled images do."""
        closes = epoch >= self.plain_from and not self.plain
        if closes:
            self.plain = True
            self.dataset.close_mosaic(copy(self.arguments))
        own = _OTHER_ORDER * (1 + self.rank)
        self.generator.manual_seed(self.seed * 100_003 + epoch + 1 + own)
        # as with the labelled images, workers go on over epochs
        if self.stream is None or closes or self.loader.num_workers == 0:
            self.stream = iter(self.loader)

    def extend_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with more images behind its own, and ``LABELLED``."""
        assert self.stream is not None, "an epoch must start first"
        extra = next(self.stream)
        # as many fewer as of the labelled ones, where a batch did not fit into memory
        kept = max(round(len(extra) * self.arguments.batch / self.asked_batch), 1)
        ours, theirs = (
            images.to(self.device, non_blocking=self.device.type == "cuda")
            for images in (batch["img"], extra[:kept])
        )
        fitted = fit(theirs, ours.shape[-2], ours.shape[-1])
        return {**batch, "img": torch.cat([ours, fitted]), LABELLED: len(ours)}

    def close(self) -> None:
        """Stop the workers."""
        self.stream = None

    def state_dict(self) -> dict[str, Any]:
        """Mosaic draws its partners from the images read last."""
        return {"mosaic_buffer": [int(index) for index in self.dataset.buffer]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read the same images again, in place of those read so far."""
        for index in self.dataset.buffer:
            self.dataset.ims[index] = None  # or it would not be read, and not remembered, anew
        self.dataset.buffer.clear()
        for index in state["mosaic_buffer"]:
            self.dataset.load_image(index)


def fit(images: Tensor, height: int, width: int) -> Tensor:
    """Images (N, 3, H, W) of whole numbers, scaled into ``height`` x ``width`` and padded grey."""
    old_height, old_width = images.shape[-2:]
    if (old_height, old_width) == (height, width):
        return images
    ratio = min(height / old_height, width / old_width)
    size = (min(round(old_height * ratio), height), min(round(old_width * ratio), width))
    scaled = nn.functional.interpolate(images.float(), size, mode="bilinear", antialias=ratio < 1)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    borders = (left, width - size[1] - left, top, height - size[0] - top)
    padded = nn.functional.pad(scaled, borders, value=_PAD)
    return padded.round().clamp(0, 255).to(images.dtype)


class _Pictures(YOLODataset):
    """A detection data set in which no image has an object; label files are not looked at.

    Nothing is written beside the images. One that cannot be read is replaced by the next.
    """

    def __init__(self, images: list[Path], batch: int, arguments: Any) -> None:
        augmentation = copy(arguments)
        if arguments.rect:  # as for the labelled images; the loader's images stay square
            augmentation.mosaic = augmentation.mixup = augmentation.cutmix = 0.0
        self.unreadable: set[int] = set()
        super().__init__(
            [str(image) for image in images],
            data={"names": {0: "object"}},
            imgsz=arguments.imgsz,
            augment=True,
            hyp=augmentation,
            batch_size=batch,
        )
        # ultralytics would take any .npy beside an image for its own; below a file there is none
        self.npy_files = [Path(file, "none") for file in self.im_files]

    def get_img_files(self, img_path: list[str]) -> list[str]:
        """As listed."""
        return img_path

    def get_labels(self) -> list[dict[str, Any]]:
        """No objects; neither label files nor their cache are touched."""
        return [
            {
                "im_file": file,
                "cls": torch.zeros(0, 1).numpy(),
                "bboxes": torch.zeros(0, 4).numpy(),
                "segments": [],
                "keypoints": None,
                "normalized": True,
                "bbox_format": "xywh",
            }
            for file in self.im_files
        ]

    def load_image(self, i: int, *args: Any, **kwargs: Any) -> Any:
        """Image ``i``, or the next that can be read.

        Raises:
            CompressError: if none can.
        """
        for index in (*range(i, self.ni), *range(i)):
            if index in self.unreadable:
                continue
            try:
                return super().load_image(index, *args, **kwargs)
            except Exception as error:  # damaged bytes end in a dozen kinds of errors
                self.unreadable.add(index)
                warnings.warn(f"{self.im_files[index]} is left out: {error}", stacklevel=2)
        raise CompressError(
            f"Unlabeled images: none of {self.ni} can be read, the first is {self.im_files[0]}. "
            "Replace them, or leave out `unlabeled:`"
        )


class _EndlessShuffle(Sampler[int]):
    """Pass after pass, each in another order."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.count, generator=self.generator).tolist()


def _stack(samples: list[dict[str, Any]]) -> Tensor:
    return torch.stack([sample["img"] for sample in samples])
