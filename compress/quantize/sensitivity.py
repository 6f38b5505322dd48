"""What each layer's rounding costs alone, and which layers are worth keeping float."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.raw_outputs import raw_outputs
from compress.quantize.simulation import Simulation
from export.placement import conv_names, find_placement
from export.ranges import Ranges

VERSION = 1  # of the file's layout
_LEAST_MS = 1e-3  # of lost time: a layer that is free in float is still counted as this
_NO_NOISE = 99.0  # dB


@dataclass(frozen=True)
class LayerNoise:
    """One layer quantized alone, the others float.

    ``sqnr``: energy of the head's raw outputs over that of their error, in dB. ``map50_95`` (0 to
    1) and ``drop``, what it lost against the float model. ``lost_ms``: milliseconds that the layer
    takes longer in float than in INT8, None where no target runs on this machine.
    """

    layer: str
    sqnr: float
    map50_95: float
    drop: float
    lost_ms: float | None = None

    @property
    def noise(self) -> float:
        """Energy of the error, as a share of that of the outputs."""
        return float(10 ** (-self.sqnr / 10))


def layers_alone(
    model: nn.Module, graph: onnx.ModelProto, ranges: Ranges, layers: Sequence[str]
) -> Iterator[tuple[str, nn.Module]]:
    """Models in which one convolution of ``layers`` is INT8: its weight, and what is rounded there.

    Args:
        model: fused float model; simulated in place while a pair is in use.
        graph: its exported graph.
        ranges: calibrated on the whole placement.
        layers: names of convolutions among ``ranges.convs``.

    Yields:
        The convolution and the model; float again after the loop's turn.
    """
    everything = conv_names(graph)
    for layer in layers:
        others = [name for name in everything if name != layer]
        placement = find_placement(graph, others, ranges.targets)
        simulation = Simulation(model, placement, ranges.weight_bits)
        simulation.load_ranges(replace(ranges, convs=(layer,)))
        try:
            yield layer, model
        finally:
            simulation.remove()


def raw_head(model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """The head's raw boxes and class logits for each image (N, 3, H, W), float32, on the CPU."""
    found: list[Tensor] = []
    with torch.no_grad():
        for batch in images:
            raw = raw_outputs(model, model.eval()(batch))
            found += [raw.boxes.float().cpu(), raw.scores.float().cpu()]
    return found


def sqnr(clean: Sequence[Tensor], noisy: Sequence[Tensor]) -> float:
    """Signal to quantization noise in dB, at most 99: mean over kinds of outputs of their ratios.

    Boxes and classes are on scales of their own, so each is measured against its own energy.
    """
    shares = [
        float((a - b).square().sum() / a.square().sum().clamp_min(1e-12))
        for a, b in zip(clean, noisy, strict=True)
    ]
    mean = sum(shares) / len(shares)
    return _NO_NOISE if mean <= 0 else min(_NO_NOISE, -10 * math.log10(mean))


def measure(
    pairs: Iterator[tuple[str, nn.Module]],
    clean: Sequence[Tensor],
    images: Sequence[Tensor],
    dense: float,
    accuracy: Callable[[nn.Module], float],
) -> Iterator[LayerNoise]:
    """One row a pair of ``layers_alone``; ``dense`` is the float model's mAP50-95."""
    for layer, model in pairs:
        noise = sqnr(clean, raw_head(model, images))
        found = accuracy(model)
        yield LayerNoise(layer, noise, found, dense - found)


def worst_first(rows: Sequence[LayerNoise]) -> list[LayerNoise]:
    """Rows by what float buys for its time: noise taken away a millisecond lost, most first.

    Noise decides, not the drop of mAP: on some dozen images the drop of a single layer is chance.
    Where no time was measured, all layers count alike.
    """
    return sorted(rows, key=lambda row: -row.noise / max(row.lost_ms or _LEAST_MS, _LEAST_MS))


def report(dense: float, rows: Sequence[LayerNoise], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``int8_sensitivity.json``, the worst layer first."""
    ordered = [asdict(row) for row in worst_first(rows)]
    return {"version": VERSION, **settings, "dense": dense, "rows": ordered}


def float_candidates(content: Mapping[str, Any], most: float) -> list[str]:
    """Layers that may stay float, the most worthwhile first, at most the share ``most`` of all.

    Raises:
        CompressError: if ``content`` is not an ``int8_sensitivity.json`` of this version.
    """
    if content.get("version") != VERSION:
        raise CompressError(
            f"quantize: a sensitivity file of version {content.get('version')} where {VERSION} is "
            "known. Run the stage `int8_sensitivity` again."
        )
    layers = [str(row["layer"]) for row in content["rows"]]
    return layers[: int(most * len(layers))]
