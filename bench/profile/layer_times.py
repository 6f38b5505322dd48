"""From operators to layers: what each layer of a net takes, and which ones became slower."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# what the runtime adds where neighbours disagree on how channels lie in memory
LAYOUT = "layout changes (ragged channels)"
_REORDER = "Reorder"
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
    its activation are one layer. Also reads names that ONNX Runtime gives to fused operators.
    """
    if operator.startswith(_REORDER):
        return LAYOUT
    path: list[str] = []
    for part in operator.strip("/").split("/"):
        if not part or part[0].isupper():  # operators are capitalised, modules are not
            break
        if path and part.startswith(path[-1] + "."):
            path[-1] = part  # a container's child repeats its parent's name
        else:
            path.append(part)
    if path and path[-1] in _PARTS_OF_A_BLOCK:
        path.pop()
    return ".".join(path)


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
