"""Read features of named layers while a model runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Taps:
    """Keeps the last output of each named layer; ``close`` takes the hooks off again."""

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        """Hook ``layers`` of ``model`` (module names)."""
        self.features: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        self._handles = [
            modules[layer].register_forward_hook(
                lambda _module, _inputs, output, layer=layer: self._keep(layer, output)
            )
            for layer in dict.fromkeys(layers)
        ]

    def _keep(self, layer: str, output: Tensor) -> None:
        if isinstance(output, Tensor):
            self.features[layer] = output

    def close(self) -> None:
        """Remove the hooks and forget the features."""
        for handle in self._handles:
            handle.remove()
        self.features.clear()


def probe_shapes(
    model: nn.Module, layers: Sequence[str], imgsz: int, device: torch.device
) -> dict[str, tuple[int, int, int]]:
    """Channels, height and width of each layer's map, found by running one empty image.

    Layers whose output is no map (N, C, H, W) are left out.
    """
    taps = Taps(model, layers)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, imgsz, imgsz, device=device))
        shapes = {name: tuple(feature.shape[1:]) for name, feature in taps.features.items()}
        return {name: shape for name, shape in shapes.items() if len(shape) == 3}
    finally:
        model.train(was_training)
        taps.close()
