"""Everything that can be checked before the first hour of work."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from compress.data.dataset import check_labels, list_images
from compress.data.images import can_check_images, check_images
from compress.pipeline.job import FINGERPRINTS, Job, unlabeled_place
from compress.pipeline.links import FromImages, Step
from compress.pipeline.weights import weight_faults
from compress.recipe.references import hash_images
from compress.recipe.tree import Fault

IMAGE_MEMO = "images.json"
_MEASURED = ("val", "test")
_OPENS_WEIGHTS = ("torch", "ultralytics")


def check_before_work(job: Job, steps: Sequence[Step], cache: Path) -> None:
    """Read labels, images and weights, and look for the device that ``steps`` will need.

    Raises:
        CompressError: everything that is wrong with one of them.
        ModuleNotFoundError: the libraries that train are not installed.
    """
    check_data(job, cache)
    leaks = leak_faults(job, steps, cache)
    faults = [*leaks, *device_faults(job), *weight_faults(job, steps)]
    if faults:
        raise job.error(faults)


def check_what_can_be(job: Job, steps: Sequence[Step], cache: Path) -> list[str]:
    """As ``check_before_work``, and say what could not be checked for want of a library.

    Raises:
        CompressError: everything that is wrong with labels, images, weights or the device.
    """
    absent = [name for name in _OPENS_WEIGHTS if find_spec(name) is None]
    if not absent:
        check_before_work(job, steps, cache)
        return []
    check_data(job, cache)
    leaks = leak_faults(job, steps, cache)
    if leaks:
        raise job.error(leaks)
    install = f"{', '.join(absent)} not installed: pip install 'yolo-compress[train]'"
    unchecked = ["weights"] if job.recipe.device == "cpu" else ["weights", "device"]
    unchecked += [] if can_check_images() else ["images"]
    return [f"{what} not opened ({install})" for what in unchecked]


def check_data(job: Job, cache: Path) -> None:
    """Read every label and image; ``cache`` remembers the sound images.

    Raises:
        CompressError: all faulty rows, or all unreadable images.
    """
    check_labels(job.data)
    if can_check_images():
        check_images(job.data, cache / "data" / IMAGE_MEMO)


def leak_faults(job: Job, steps: Sequence[Step], cache: Path) -> list[Fault]:
    """Unlabeled images that are also measured on, by content: mAP would say too much of them."""
    memo = cache / "data" / FINGERPRINTS
    faults = []
    for step in steps:
        link = step.links.get("unlabeled")
        if not isinstance(link, FromImages):
            continue
        ours = hash_images(list_images(job.named[link.reference].path), memo)
        for split in _MEASURED:
            measured = set(hash_images(job.data.splits.get(split, ()), memo).values())
            leaks = [image for image, digest in ours.items() if digest in measured]
            if leaks:
                message = (
                    f"{len(leaks)} of these images are in the {split} split too, such as "
                    f"{leaks[0]}: '{step.name}' would learn from what it is measured on. Take "
                    "them out of this folder"
                )
                faults.append(Fault(unlabeled_place(step), message))
    return faults


def device_faults(job: Job) -> list[Fault]:
    """What this machine lacks of the recipe's device."""
    device = job.recipe.device
    if device == "cpu":
        return []
    import torch

    if device == "mps":
        lacks = "" if torch.backends.mps.is_available() else "PyTorch finds no Apple GPU here"
    else:
        lacks = _cuda_lacks(device, torch.cuda.device_count())
    advice = "Take `device: cpu`; `compress doctor` shows what is missing"
    return [Fault(("device",), f"no device '{device}': {lacks}. {advice}")] if lacks else []


def _cuda_lacks(device: str, count: int) -> str:
    if not count:
        return "PyTorch finds no CUDA GPU here"
    numbers = device.removeprefix("cuda").removeprefix(":") or "0"
    last = f"0 to {count - 1}" if count > 1 else "0"
    found = all(int(number) < count for number in numbers.split(","))
    return "" if found else f"the GPUs here are numbered {last}"
