"""CutMix of maps, difficulty of images and gradient shares: by hand and as properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.distill.mixing import CutMix, difficulty, gradient_shares
from compress.models.raw_outputs import RawOutputs

SWAP = torch.tensor([1, 0])


def outputs(scores: Tensor) -> RawOutputs:
    count, _, cells = scores.shape
    boxes = torch.zeros(count, 4, cells)
    return RawOutputs(scores, boxes, 1, torch.zeros(cells, 2), torch.ones(cells))


def numbered(count: int, height: int, width: int) -> Tensor:
    """(count, 2, height, width): every number is its image's index."""
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 2, height, width)


def test_the_rectangle_changes_places_by_hand() -> None:
    mixed = CutMix(SWAP, left=0.5, top=0.0, right=1.0, bottom=0.5)(numbered(2, 2, 4))
    first = [[0, 0, 1, 1], [0, 0, 0, 0]]
    second = [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert mixed.tolist() == [[first, first], [second, second]]


@given(seed=st.integers(0, 999), size=st.sampled_from([(8, 8), (4, 12), (1, 5), (20, 20)]))
def test_every_number_comes_from_the_image_or_its_partner(seed: int, size: tuple[int, int]) -> None:
    torch.manual_seed(seed)
    cut = CutMix.draw(4)
    maps = torch.randn(4, 3, *size)
    mixed = cut(maps)
    from_partner = (mixed == maps[cut.partners]) & (mixed != maps)
    assert torch.equal(torch.where(from_partner, maps[cut.partners], maps), mixed)
    where = from_partner.any(1).any(0)
    rows, columns = where.any(1), where.any(0)
    assert torch.equal(where, rows[:, None] & columns[None])  # a rectangle
    assert sorted(cut.partners.tolist()) == [0, 1, 2, 3]


@given(seed=st.integers(0, 999))
def test_all_strides_see_the_same_region(seed: int) -> None:
    torch.manual_seed(seed)
    drawn = CutMix.draw(2)
    cut = CutMix(SWAP, drawn.left, drawn.top, drawn.right, drawn.bottom)
    for side in (4, 8, 16, 80):
        swapped = cut(numbered(2, side, side))[0, 0] == 1
        assert swapped.any(1).sum() == pytest.approx((cut.bottom - cut.top) * side, abs=1.01)
        assert swapped.any(0).sum() == pytest.approx((cut.right - cut.left) * side, abs=1.01)
        for where, low, high in (
            (swapped.any(1), cut.top, cut.bottom),
            (swapped.any(0), cut.left, cut.right),
        ):
            inside = where.nonzero().flatten()
            if len(inside):
                assert int(inside[0]) == pytest.approx(low * side, abs=0.51)
                assert int(inside[-1]) + 1 == pytest.approx(high * side, abs=0.51)


def test_areas_are_uniform_and_inside_the_image() -> None:
    torch.manual_seed(0)
    cuts = [CutMix.draw(2) for _ in range(2000)]
    areas = torch.tensor([(c.right - c.left) * (c.bottom - c.top) for c in cuts])
    quarters = torch.histc(areas, 4, 0, 1) / len(cuts)
    assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.04)
    assert all(0 <= c.left <= c.right <= 1 and 0 <= c.top <= c.bottom <= 1 for c in cuts)
    assert min(c.left for c in cuts) < 0.01
    assert max(c.right for c in cuts) > 0.99


def test_the_draw_is_that_of_the_global_generator() -> None:
    def draw() -> tuple[list[int], float, float]:
        torch.manual_seed(5)
        cut = CutMix.draw(6)
        return cut.partners.tolist(), cut.left, cut.bottom

    assert draw() == draw()
    assert CutMix.draw(6).left != draw()[1]


def test_gradients_go_to_the_image_that_a_number_came_from() -> None:
    maps = torch.zeros(2, 1, 2, 2, requires_grad=True)
    mixed = CutMix(SWAP, 0.0, 0.0, 0.5, 1.0)(maps)
    mixed[0].sum().backward()
    assert maps.grad is not None
    assert maps.grad[:, 0].tolist() == [[[0, 1], [0, 1]], [[1, 0], [1, 0]]]


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_difficulty_by_hand() -> None:
    # two images, two classes, two cells; the teacher says one half everywhere
    student = torch.tensor(
        [
            [[logit(0.6), 0.0], [logit(0.8), 0.0]],  # 0.3 in cell 0, 0 in cell 1
            [[logit(0.1), 0.0], [0.0, logit(0.0001)]],  # 0.4, then 0.4999
        ]
    ).requires_grad_(True)
    weights = difficulty(outputs(student), outputs(torch.zeros(2, 2, 2)))
    mean = (0.3 + 0.8999) / 2
    assert weights.tolist() == pytest.approx([0.3 / mean, 0.8999 / mean], rel=1e-5)
    assert not weights.requires_grad


def test_where_there_is_no_difference_all_images_count_alike() -> None:
    same = outputs(torch.randn(3, 2, 5))
    assert difficulty(same, same).tolist() == [1, 1, 1]


@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
def test_difficulty_is_finite_with_a_mean_of_one(seed: int, scale: float) -> None:
    numbers = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(4, 3, 6, generator=numbers) * scale for _ in range(2))
    weights = difficulty(outputs(student), outputs(teacher))
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert (weights >= 0).all()


def test_gradient_shares_by_hand() -> None:
    one, other = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([1.0]))
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    losses = {
        "square": (one**2).sum() / 2,  # gradient (3, 4): 5
        "both": one.sum() * 0 + 15 * other.sum(),  # (0, 0) and 15
        "constant": torch.tensor(2.0),
        "elsewhere": nn.Parameter(torch.ones(1)).sum(),
    }
    shares = gradient_shares(losses, [one, other, frozen])
    assert shares == pytest.approx({"square": 0.25, "both": 0.75, "constant": 0, "elsewhere": 0})
    assert one.grad is None
    assert other.grad is None
    sum(losses.values()).backward()  # the graph is still there
    assert one.grad is not None
    assert one.grad.tolist() == [3, 4]


def test_without_any_gradient_all_shares_are_zero() -> None:
    weight = nn.Parameter(torch.zeros(2))
    losses = {"flat": (weight**2).sum(), "constant": torch.tensor(1.0)}
    assert gradient_shares(losses, [weight]) == {"flat": 0, "constant": 0}
    assert gradient_shares({"flat": weight.sum()}, []) == {"flat": 0}
