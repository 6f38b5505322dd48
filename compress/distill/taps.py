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
            for layer in layers
        ]

    def _keep(self, layer: str, output: Tensor) -> None:
        self.features[layer] = output

    def close(self) -> None:
        """Remove the hooks and forget the features."""
        for handle in self._handles:
            handle.remove()
        self.features.clear()


def probe_widths(
    model: nn.Module, layers: Sequence[str], imgsz: int, device: torch.device
) -> dict[str, int]:
    """Channels of each layer's output, found by running one empty image."""
    taps = Taps(model, layers)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, imgsz, imgsz, device=device))
        return {layer: feature.shape[1] for layer, feature in taps.features.items()}
    finally:
        model.train(was_training)
        taps.close()
