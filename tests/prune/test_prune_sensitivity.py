"""What cutting one layer costs: the cuts are real and single, and a plan listens to them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.errors import CompressError
from compress.models.inspect import conv_widths
from compress.prune.prune import Importance, channel_units
from compress.prune.sensitivity import (
    VERSION,
    LayerCut,
    channels_to_cut,
    cut_layers,
    report,
    weights_from,
)
from compress.prune.solver import Unit
from compress.prune.structure import PrunableModel

ALIGN = 4


def unit(width: int, granularity: int = 1) -> Unit:
    return Unit(("a",), (tuple(range(width)),), (0.0,) * width, (), granularity)


@given(
    width=st.integers(1, 300),
    share=st.floats(0.01, 0.99),
    align=st.sampled_from([1, 4, 8]),
    granularity=st.sampled_from([1, 2, 3]),
)
def test_what_remains_is_aligned_and_near_the_share(
    width: int, share: float, align: int, granularity: int
) -> None:
    cut = channels_to_cut(unit(width, granularity), share, align)
    block = align * granularity if align % granularity else align
    assert 0 <= cut < width
    if cut:
        remain = width - cut
        assert remain % align == 0
        assert remain % granularity == 0
        assert remain <= block or abs(remain - width * (1 - share)) <= block / 2 + 1e-6


@pytest.mark.parametrize(
    ("width", "share", "align", "cut"),
    [(64, 0.5, 8, 32), (64, 0.3, 8, 16), (16, 0.9, 8, 8), (8, 0.5, 8, 0), (4, 0.5, 8, 0)],
)
def test_cuts_by_hand(width: int, share: float, align: int, cut: int) -> None:
    assert channels_to_cut(unit(width), share, align) == cut


def rows_of(
    net: nn.Module, measure: Callable[[nn.Module], float], share: float = 0.5
) -> tuple[list[Unit], list[LayerCut | None]]:
    structure = PrunableModel(net)
    units = channel_units(structure, net, Importance())
    return units, list(cut_layers(structure, units, share, ALIGN, 0.5, measure))


def test_each_row_cuts_one_layer_alone(net: nn.Module) -> None:
    dense = conv_widths(net)
    narrower: list[list[str]] = []
    shapes: list[torch.Size] = []

    def measure(model: nn.Module) -> float:
        widths = conv_widths(model)
        narrower.append([name for name, width in widths.items() if width < dense[name]])
        assert all(widths[name] % ALIGN == 0 for name in narrower[-1])
        with torch.no_grad():
            shapes.append(model.eval()(torch.zeros(1, 3, 32, 32))[0].shape)
        return 0.4

    units, rows = rows_of(net, measure)
    assert conv_widths(net) == dense
    assert len(rows) == len(units)
    measured = [row for row in rows if row is not None]
    assert len(measured) == len(narrower) > 20
    assert len(set(shapes)) == 1
    for row, names in zip(measured, narrower, strict=True):
        assert f"{row.layer.partition('[')[0]}.conv" in names
        assert row.drop == pytest.approx(0.1)
        assert 0 < row.cut < row.width
    assert len({row.layer for row in measured}) == len(measured)
    assert max(len(names) for names in narrower) < len(dense) / 4  # a group, not the net


def test_a_narrow_layer_is_passed_over(net: nn.Module) -> None:
    units, rows = rows_of(net, lambda model: 0.4, share=0.01)
    assert rows == [None] * len(units)


def test_the_least_important_channels_go(net: nn.Module) -> None:
    """A layer of which half the channels do nothing loses those."""
    first = net.model[0]
    dead = torch.arange(len(first.conv.weight)) % 2 == 0
    readers = net.model[1].conv.weight
    with torch.no_grad():
        first.conv.weight[dead] = 0
        first.bn.weight[dead] = 0
        first.bn.bias[dead] = 0
        first.bn.running_mean[dead] = 0
        readers[:, dead] = 0
    image = torch.rand(1, 3, 32, 32)

    def difference(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model.eval()(image)[0] - net.eval()(image)[0]).abs().max())

    _, rows = rows_of(net, difference)
    found = {row.layer: row.map50_95 for row in rows if row is not None}
    assert found.pop("model.0") < 1e-3
    assert min(found.values()) > 0.01


def content(*drops: float) -> dict[str, object]:
    rows = [LayerCut((f"{i}.a", f"{i}.b"), f"{i}", 8, 4, 0.5 - d, d) for i, d in enumerate(drops)]
    return report(0.5, rows, {"share": 0.5})


def test_weights_by_hand() -> None:
    weights = weights_from(content(0.3, 0.0, 0.1, 0.0))
    assert weights == pytest.approx(
        {"0.a": 2.0, "0.b": 2.0, "1.a": 0.5, "1.b": 0.5, "2.a": 1.0, "2.b": 1.0}
        | {"3.a": 0.5, "3.b": 0.5}
    )


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_weights_have_mean_one_and_keep_the_order(drops: list[float]) -> None:
    weights = list(weights_from(content(*drops)).values())[::2]
    assert sum(weights) / len(weights) == pytest.approx(1)
    assert min(weights) >= 0.5 - 1e-12 or max(drops) <= 0
    ranked = [weights[index] for index in sorted(range(len(drops)), key=lambda i: drops[i])]
    assert all(b >= a - 1e-12 for a, b in pairwise(ranked))


def test_a_file_of_another_version_is_refused() -> None:
    with pytest.raises(CompressError, match=rf"version 0 where {VERSION} is known.*Run the stage"):
        weights_from({**content(0.1), "version": 0})


def test_a_plan_spares_a_sensitive_layer(net: nn.Module) -> None:
    structure = PrunableModel(net)
    plain = channel_units(structure, net, Importance())
    root = plain[3].roots[0]
    weighed = channel_units(structure, net, Importance(weights={root: 2.0}))
    assert weighed[3].scores == pytest.approx([2 * score for score in plain[3].scores])
    assert weighed[3].order == plain[3].order
    assert weighed[4].scores == plain[4].scores
