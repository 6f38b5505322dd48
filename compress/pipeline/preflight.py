"""Everything that can be checked before the first hour of work."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from compress.data.dataset import check_labels
from compress.data.images import can_check_images, check_images
from compress.pipeline.job import Job
from compress.pipeline.links import Step
from compress.pipeline.weights import weight_faults
from compress.recipe.tree import Fault

IMAGE_MEMO = "images.json"
_OPENS_WEIGHTS = ("torch", "ultralytics")


def check_before_work(job: Job, steps: Sequence[Step], cache: Path) -> None:
    """Read labels, images and weights, and look for the device that ``steps`` will need.

    Raises:
        CompressError: everything that is wrong with one of them.
        ModuleNotFoundError: the libraries that train are not installed.
    """
    check_data(job, cache)
    faults = [*device_faults(job), *weight_faults(job, steps)]
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
    number = int(device.removeprefix("cuda").removeprefix(":") or 0)
    last = f"0 to {count - 1}" if count > 1 else "0"
    return "" if number < count else f"the GPUs here are numbered {last}"
