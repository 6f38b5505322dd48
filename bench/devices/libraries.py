"""Versions of what JetPack ships, by its files, since nothing of it need be importable."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.devices.sysfs import read_text

_HEADERS = ("usr/include/aarch64-linux-gnu/NvInferVersion.h", "usr/include/NvInferVersion.h")
_PARTS = ("MAJOR", "MINOR", "PATCH")


def cuda_version(root: Path) -> str | None:
    """Of the toolkit, by the JSON of CUDA 11 and later, or the text of CUDA 10."""
    folder = root / "usr/local/cuda"
    try:
        return str(json.loads(read_text(folder / "version.json") or "")["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        found = re.search(r"CUDA Version ([\d.]+)", read_text(folder / "version.txt") or "")
        return found[1] if found else None


def tensorrt_version(root: Path) -> str | None:
    """By its header, else by the Python package."""
    for header in _HEADERS:
        text = read_text(root / header) or ""
        # TensorRT 10.13 and later define NV_TENSORRT_MAJOR by TRT_MAJOR_ENTERPRISE
        found = [
            re.search(rf"^#define (?:NV_TENSORRT_{part}|TRT_{part}_ENTERPRISE) (\d+)", text, re.M)
            for part in _PARTS
        ]
        numbers = [number[1] for number in found if number]
        if len(numbers) == len(_PARTS):
            return ".".join(numbers)
    try:
        return version("tensorrt")
    except PackageNotFoundError:
        return None
