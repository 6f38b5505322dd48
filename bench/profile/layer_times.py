"""From operators to layers: what each layer of a net takes, and which ones became slower."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# what the runtime adds where neighbours disagree on how channels lie in memory
LAYOUT = "layout changes"
ACTIVATIONS = "activations (one name for all)"
REORDER = "Reorder"
_TENSORRT_COPY = "Reformatting CopyNode"
# TensorRT's "PWN(/model.0/act/Mul)" and "{ForeignNode[/model.22/Reshape.../model.22/Concat]}"
_INSIDE = re.compile(r"[(\[\s](/[a-z][^\s,)\]]*)")
_PARAMETER = re.compile(r"\.(weight|bias)\b.*|\.(weight|bias)_.*")
_OPENVINO_ROOT = "__module."  # where OpenVINO converted PyTorch without ONNX between
_PARTS_OF_A_BLOCK = ("conv", "act")


@dataclass(frozen=True)
class Slower:
    """A layer that takes longer than in the net it is compared with. Milliseconds."""

    layer: str
    base_ms: float
    ms: float


def layer_of(operator: str) -> str:
    """The module that an operator of an exported net belongs to; empty where the name tells none.

    ``/model.22/cv2.0/cv2.0.1/act/Mul`` -> ``model.22.cv2.0.1``: a convolution, its BatchNorm and
    its activation are one layer. Also reads names that ONNX Runtime and TensorRT give to fused
    operators (the first one's module), of nodes named after a module's weights, and OpenVINO's
    where it converted PyTorch directly.
    """
    if operator.startswith((REORDER, _TENSORRT_COPY)):
        return LAYOUT
    path: list[str] = []
    direct = operator.startswith(_OPENVINO_ROOT)
    name = _PARAMETER.sub("", operator)
    name = name[len(_OPENVINO_ROOT) :] if direct else _first_path(name).strip("/")
    for part in name.split("/"):
        # operators are capitalised, or in a namespace of C++, or TensorRT's own; modules are not
        if not part or part[0].isupper() or "::" in part or part.startswith("__"):
            break
        if path and part.startswith(path[-1] + "."):
            path[-1] = part  # a container's child repeats its parent's name
        else:
            path.append(part)
    modules = ".".join(path).split(".")
    if direct and modules[-1] == "act":  # ultralytics' blocks share one, named after the last
        return ACTIVATIONS
    if modules[-1] in _PARTS_OF_A_BLOCK:
        modules.pop()
    return ".".join(modules)


def _first_path(operator: str) -> str:
    inside = None if operator.startswith("/") else _INSIDE.search(operator)
    return inside[1] if inside else operator


def layer_times(operators: Mapping[str, float]) -> dict[str, float]:
    """Layer -> milliseconds, of the milliseconds of its operators."""
    times: dict[str, float] = {}
    for operator, ms in operators.items():
        layer = layer_of(operator)
        times[layer] = times.get(layer, 0.0) + ms
    return times


def share_of(layers: Iterable[str], operators: Mapping[str, float]) -> float:
    """The share of all operators' time, 0 to 1, that these layers take."""
    times = layer_times(operators)
    return sum(times.get(layer, 0.0) for layer in set(layers)) / sum(times.values())


def slower_layers(
    base: Mapping[str, float], other: Mapping[str, float], most: int = 5
) -> list[Slower]:
    """The layers of ``other`` that take longer than in ``base``, largest increase first.

    Args:
        base: operator -> milliseconds.
        other: the same of the net to blame, measured in the same run.
        most: how many to name.
    """
    before, after = layer_times(base), layer_times(other)
    slower = [
        Slower(layer, before.get(layer, 0.0), ms)
        for layer, ms in after.items()
        if layer and ms > before.get(layer, 0.0)
    ]
    return sorted(slower, key=lambda entry: entry.base_ms - entry.ms)[:most]
