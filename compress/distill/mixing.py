"""How distillation mixes and weighs: CutMix of feature maps, difficulty, gradient shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.models.raw_outputs import RawOutputs


@dataclass(frozen=True)
class CutMix:
    """One rectangle of every image, replaced by another image's (Yun et al., CutMix, 2019).

    Applied to maps of student and teacher alike, so that both see the same mixture. ``partners``
    (N,) says whose rectangle each image gets; the sides are shares of the image in 0..1.
    """

    partners: Tensor
    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def draw(cls, count: int) -> CutMix:
        """Partners for ``count`` images and a rectangle, from torch's global random numbers.

        Its share of the area is uniform in 0..1, which is Beta(1, 1); it has the image's
        proportions and lies anywhere in it.
        """
        partners = torch.randperm(count)
        area, x, y = torch.rand(3).tolist()
        side = area**0.5
        left, top = x * (1 - side), y * (1 - side)
        return cls(partners, left, top, left + side, top + side)

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W), mixed. Edges go to the nearest cell border, whatever the stride."""
        height, width = maps.shape[-2:]
        inside = torch.zeros(height, width, dtype=torch.bool, device=maps.device)
        rows = slice(round(self.top * height), round(self.bottom * height))
        columns = slice(round(self.left * width), round(self.right * width))
        inside[rows, columns] = True
        return torch.where(inside, maps[self.partners.to(maps.device)], maps)


@torch.no_grad()
def difficulty(student: RawOutputs, teacher: RawOutputs) -> Tensor:
    """How far the student is from the teacher on each image, (N,), with a mean of 1.

    The sum over cells, which must be the same ones on both sides, of the largest difference
    between class probabilities. All 1 where there is no difference.
    """
    ours, theirs = (side.scores.float().sigmoid() for side in (student, teacher))
    distance = (theirs - ours).abs().amax(1).sum(1)
    mean = distance.mean()
    weights = distance / mean.clamp_min(torch.finfo(mean.dtype).tiny)
    return torch.where(mean > 0, weights, torch.ones_like(weights))


def gradient_shares(
    losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
) -> dict[str, float]:
    """The norm of each loss' gradient over ``parameters``, as a share of the sum of all norms.

    Losses (scalars) without a gradient there have 0. The graph and ``.grad`` stay as they are.
    """
    norms = {name: _gradient_norm(loss, parameters) for name, loss in losses.items()}
    total = sum(norms.values())
    return {name: norm / total if total else 0.0 for name, norm in norms.items()}


def _gradient_norm(loss: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not loss.requires_grad or not wanted:
        return 0.0
    gradients = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
