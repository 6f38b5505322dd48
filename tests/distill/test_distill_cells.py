"""What losses on outputs are made of: weights of cells, peaks, distances of boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from drawn_outputs import draw, draw_outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from compress.distill.losses.boxes import ciou_loss, giou_loss
from compress.distill.losses.cells import peaks, per_image
from compress.models.raw_outputs import RawOutputs


def test_the_divisor_is_shared_by_the_batch_and_at_least_one() -> None:
    weights = torch.tensor([[1.0, 1.0, 1.0], [1e-6, 0.0, 0.0]])
    values = weights * torch.tensor([[2.0, 2.0, 2.0], [9.0, 9.0, 9.0]])
    total = (values.sum() / weights.sum()).item()
    assert per_image(values, weights).mean().item() == pytest.approx(total)
    assert per_image(values, weights)[1].item() < 1e-4  # an image with next to nothing
    assert per_image(values * 1e-9, weights * 1e-9).max().item() < 1e-7


# ---- peaks


def grid_of(logits: Tensor) -> RawOutputs:
    """Outputs of one level from (K, rows, columns) logits."""
    _, rows, columns = logits.shape
    outputs = draw_outputs(1, len(logits), levels=((8, rows, columns),))
    return replace(outputs, scores=logits.flatten(1).unsqueeze(0))


def test_only_the_highest_neighbour_of_a_class_is_a_peak() -> None:
    logits = torch.full((2, 4, 4), -9.0)
    logits[0, 0, 0], logits[0, 0, 1] = 3.0, 2.0  # outdone by its neighbour
    logits[1, 1, 0] = 1.0  # a neighbour of another class
    logits[0, 3, 3] = 0.5  # too far from any
    found = peaks(grid_of(logits))[0].reshape(4, 4)
    assert found[0, 0]
    assert not found[0, 1]
    assert found[1, 0]
    assert found[3, 3]
    assert not found[2, 2]  # background beside a peak


def slow_peaks(outputs: RawOutputs) -> Tensor:
    places = list(zip(outputs.strides.tolist(), outputs.points.tolist(), strict=True))
    found = torch.zeros(outputs.scores.shape[0], len(places), dtype=torch.bool)
    for n, image in enumerate(outputs.scores):
        best, classes = image.max(0)
        for a, (stride, (x, y)) in enumerate(places):
            found[n, a] = all(
                best[b] <= best[a]
                for b, (other, (right, down)) in enumerate(places)
                if other == stride
                and classes[b] == classes[a]
                and max(abs(right - x), abs(down - y)) <= 1
            )
    return found


@settings(max_examples=20)
@given(
    levels=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    classes=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_peaks_are_found_in_every_level(
    levels: list[tuple[int, int]], classes: int, seed: int
) -> None:
    grids = [(8 * 2**i, rows, columns) for i, (rows, columns) in enumerate(levels)]
    outputs = draw_outputs(2, classes, seed=seed, levels=grids)
    assert torch.equal(peaks(outputs), slow_peaks(outputs))


# ---- boxes


def draw_boxes(seed: int) -> Tensor:
    corner, size = draw(2, 2, 9, seed=seed, scale=20.0), draw(2, 2, 9, seed=seed + 1, scale=15.0)
    return torch.cat([corner, corner + size.abs() + 1], 1)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [(giou_loss, generalized_box_iou_loss), (ciou_loss, complete_box_iou_loss)],
)
def test_box_losses_and_their_gradients_are_those_of_torchvision(
    loss: Callable[[Tensor, Tensor], Tensor], reference: Callable[..., Tensor]
) -> None:
    student, teacher = draw_boxes(0).requires_grad_(True), draw_boxes(7)
    again = student.detach().clone().requires_grad_(True)
    value = loss(student, teacher)
    expected = reference(
        again.permute(0, 2, 1).reshape(-1, 4), teacher.permute(0, 2, 1).reshape(-1, 4)
    )
    assert torch.allclose(value.flatten(), expected, atol=1e-5)
    value.sum().backward()
    expected.sum().backward()
    assert student.grad is not None
    assert again.grad is not None
    assert torch.allclose(student.grad, again.grad, atol=1e-5)


@pytest.mark.parametrize("loss", [giou_loss, ciou_loss])
def test_boxes_without_area_or_turned_inside_out_stay_finite(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    kinds = torch.tensor(
        [[3.0, 3, 3, 3], [5.0, 5, 1, 1], [0.0, 0, 8, 0], [2.0, 6, 9, 1], [0.0, 0, 4, 4]]
    ).T
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    student = kinds[:, pairs[0]].unsqueeze(0).requires_grad_(True)
    value = loss(student, kinds[:, pairs[1]].unsqueeze(0))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert torch.isfinite(gradient).all()
    assert (value >= 0).all()
    assert (value <= 4).all()
    assert value[0, pairs[0] == pairs[1]].abs().max() < 1e-6
