"""What is installed here, what each extra and device still lacks, and what mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from bench.devices.commands import find_command
from bench.devices.l4t import read_board
from bench.devices.machine import read_machine
from bench.devices.sysfs import read_text

if TYPE_CHECKING:
    from rich.table import Table

# extra of the package -> distribution -> the module that it is imported as
EXTRAS: Mapping[str, Mapping[str, str]] = {
    "train": {
        "torch": "torch",
        "torchvision": "torchvision",
        "ultralytics": "ultralytics",
        "torch-pruning": "torch_pruning",
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
        "matplotlib": "matplotlib",
    },
    "openvino": {"openvino": "openvino"},
    "tensorrt": {"tensorrt": "tensorrt", "pycuda": "pycuda"},
    "cuda": {"nvidia-ml-py": "pynvml"},
    "dev": {
        "pytest": "pytest",
        "pytest-timeout": "pytest_timeout",
        "pytest-xdist": "xdist",
        "hypothesis": "hypothesis",
        "ruff": "ruff",
        "mypy": "mypy",
        "vermin": "vermin",
    },
}
_BASE = ("numpy", "pydantic", "rich", "typer")
_JETSON_TOOLS = {
    "nvpmodel": "sudo apt install nvidia-l4t-nvpmodel",
    "jetson_clocks": "sudo apt install nvidia-l4t-init",
    "tegrastats": "sudo apt install nvidia-l4t-tools",
}
_JETPACK_TENSORRT = "sudo apt install python3-libnvinfer"


@dataclass(frozen=True)
class Check:
    """One extra or device. ``have`` maps a library to its version, ``lacks`` what to its mend."""

    kind: str
    name: str
    have: Mapping[str, str]
    lacks: Mapping[str, str]


def extra_of(module: str) -> str:
    """The extra that brings ``module``; empty if none does."""
    top = module.partition(".")[0]
    modules = {"cv2": "train"} | {
        name: extra for extra, packages in EXTRAS.items() for name in packages.values()
    }
    return modules.get(top, "")


def examine(root: Path = Path("/")) -> list[Check]:
    """Look at everything, importing none of it. ``root`` is where ``proc`` and ``etc`` lie."""
    base = Check("base", "recipe, plan", {name: _version(name) for name in _BASE}, {})
    return [base, *map(_extra, EXTRAS), _cpu(root), _cuda(root), _jetson(root)]


def table(checks: list[Check]) -> Table:
    """The checks for a terminal."""
    from rich.table import Table
    from rich.text import Text  # '[train]' would be markup otherwise

    grid = Table("", "for", "installed", "lacks", "mend", box=None, pad_edge=False)
    for check in checks:
        for row in _rows(check):
            grid.add_row(*map(Text, row))
        grid.add_section()
    return grid


def _rows(check: Check) -> Iterator[tuple[str, ...]]:
    """One row a library that is here and one that lacks, side by side; what lacks with its mend."""
    have = [f"{name} {number}" for name, number in check.have.items()]
    lacks = list(check.lacks.items()) or [("nothing", "")]
    titles = [(check.kind, check.name)]
    for title, here, lack in zip_longest(titles, have, lacks):
        yield (*(title or ("", "")), here or "", *(lack or ("", "")))


def _extra(name: str) -> Check:
    packages = EXTRAS[name]
    have = {package: _version(package) for package, module in packages.items() if _is_here(module)}
    install = f"pip install 'yolo-compress[{name}]'"
    lacks = {package: install for package in packages if package not in have}
    return Check("extra", name, have, lacks)


def _cpu(root: Path) -> Check:
    machine = read_machine(root)
    have = {machine.cpu: f"({machine.usable_cores} cores)"}
    lacks = {} if _is_here("onnxruntime") else {"onnxruntime": "pip install 'yolo-compress[train]'"}
    return Check("device", "cpu", have, lacks)


def _cuda(root: Path) -> Check:
    have, lacks = {}, {}
    driver = read_text(root / "proc/driver/nvidia/version")
    if driver is None:
        lacks["an NVIDIA GPU with its driver"] = "https://www.nvidia.com/drivers"
    else:
        found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", driver)
        have["NVIDIA driver"] = found[0] if found else ""
    if _version("torch").endswith("+cpu"):
        lacks["torch built for CUDA"] = "https://pytorch.org/get-started/locally"
    lacks |= _extra("cuda").lacks
    if not _is_here("tensorrt"):
        lacks["tensorrt"] = "pip install 'yolo-compress[tensorrt]'"
    return Check("device", "cuda", have, lacks | _no_cuda_calls(root))


def _jetson(root: Path) -> Check:
    board = read_board(root)
    if board is None:
        mend = "run compress bench on the board, or --host user@jetson"
        return Check("device", "jetson", {}, {"a Jetson": mend})
    have = {board.module or board.model or "a Jetson": f"(L4T {board.l4t})"}
    lacks = {tool: mend for tool, mend in _JETSON_TOOLS.items() if not find_command(tool)}
    if not _is_here("tensorrt"):
        lacks["tensorrt"] = _JETPACK_TENSORRT
    return Check("device", "jetson", have, lacks | _no_cuda_calls(root))


def _no_cuda_calls(root: Path) -> dict[str, str]:
    """Engines are fed through PyCUDA, or else CUDA's own library."""
    if _is_here("pycuda") or find_library("cudart"):
        return {}
    if any((root / "usr/local/cuda/lib64").glob("libcudart.so*")):
        return {}
    return {"pycuda or libcudart": "pip install pycuda"}


def _is_here(module: str) -> bool:
    return find_spec(module) is not None


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "without a version"
