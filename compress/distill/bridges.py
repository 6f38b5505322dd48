"""Trainable modules between student and teacher. They learn with the student, never ship with it.

Inputs are float32; call them outside of autocast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call


def projector(inputs: int, outputs: int) -> nn.Module:
    """From the student's channels to the teacher's: a 1x1 convolution where they differ."""
    return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)


class Generator(nn.Module):
    """Rebuilds the teacher's features from the student's, of which random positions are hidden.

    Source: Yang et al., Masked generative distillation (2022).
    """

    def __init__(self, channels: int, masked: float) -> None:
        """``channels`` of the teacher; ``masked`` is the share of positions hidden, 0..1."""
        super().__init__()
        self.masked = masked
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, student: Tensor) -> Tensor:
        """(N, C, H, W) to the same; positions are drawn anew for each image and call."""
        images, _, height, width = student.shape
        drawn = torch.rand(images, 1, height, width, device=student.device)
        generated: Tensor = self.layers(student * (drawn >= self.masked))
        return generated


class ContextBlock(nn.Module):
    """Adds to every position what the whole map says: the global part of FGD.

    Each side has one of its own, and both are trained. It starts as the identity.
    Source: Cao et al., GCNet (2019), as used by Yang et al., FGD (2022).
    """

    def __init__(self, channels: int) -> None:
        """``channels`` of both sides' features, once projected."""
        super().__init__()
        hidden = max(channels // 2, 1)
        self.attention = nn.Conv2d(channels, 1, 1, bias=False)  # the softmax ignores a constant
        last = nn.Linear(hidden, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(), last
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        weights = self.attention(features).flatten(2).softmax(2)  # (N, 1, H * W)
        context = (features.flatten(2) * weights).sum(2)
        added: Tensor = self.transform(context)
        return features + added.unsqueeze(2).unsqueeze(3)


def relation(student_context: Tensor, teacher_context: Tensor) -> Tensor:
    """Mean squared difference of what the two context blocks give.

    The gradient reaches both blocks; give the teacher's block features without gradient.

    Args:
        student_context: (N, C, H, W).
        teacher_context: the same shape.

    Returns:
        (N,) in float32.
    """
    return (student_context.float() - teacher_context.float()).square().mean((1, 2, 3))


CrossLevel = tuple[int, int, nn.Module]
"""Student's channels, teacher's channels, and the teacher's last convolution of one level."""


class CrossHead(nn.Module):
    """Sends hidden features of the student's head through the last convolutions of the teacher's.

    Those belong to the teacher: they are no part of this module's parameters or state, and get no
    gradient, which flows through them to the student and the projectors.
    Source: Wang et al., CrossKD (2024), with a projector in place of equal widths.
    """

    def __init__(self, classes: Sequence[CrossLevel], boxes: Sequence[CrossLevel]) -> None:
        """One entry a level, in the head's order, for the class and the box branch."""
        super().__init__()
        self.class_projectors = _projectors(classes)
        self.box_projectors = _projectors(boxes)
        self.follow([layer for _, _, layer in classes], [layer for _, _, layer in boxes])

    def follow(self, classes: Sequence[nn.Module], boxes: Sequence[nn.Module]) -> None:
        """Take these as the teacher's last convolutions from now on."""
        # tuples, for a ModuleList would take the teacher's layers in
        self._class_layers, self._box_layers = tuple(classes), tuple(boxes)

    def forward(self, classes: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (N, K, A) and box logits (N, 4 * bins, A) of all levels in order.

        Args:
            classes: per level, what enters the last convolution of the student's class branch,
                (N, C, H, W).
            boxes: the same of its box branch.
        """
        return (
            _cross(self.class_projectors, self._class_layers, classes),
            _cross(self.box_projectors, self._box_layers, boxes),
        )


def _projectors(levels: Sequence[CrossLevel]) -> nn.ModuleList:
    return nn.ModuleList(projector(inputs, outputs) for inputs, outputs, _ in levels)


def _cross(
    projectors: nn.ModuleList, layers: Sequence[nn.Module], hidden: Sequence[Tensor]
) -> Tensor:
    outputs = [
        functional_call(layer, _frozen(layer), (project(level),)).flatten(2)
        for project, layer, level in zip(projectors, layers, hidden, strict=True)
    ]
    return torch.cat(outputs, 2)


def _frozen(layer: nn.Module) -> dict[str, Tensor]:
    """The layer's weights without gradient, also where the teacher itself is trained."""
    return {name: value.detach() for name, value in layer.named_parameters()}
