"""One layer in INT8 at a time: which one hurts, and that the model is float again behind it."""

from __future__ import annotations

import math
from dataclasses import replace

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quantize_nets import simulated
from small_nets import IMGSZ, output_of
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.exportable import fused_copy
from compress.quantize.prepare import float_graph
from compress.quantize.sensitivity import (
    LayerNoise,
    float_candidates,
    layers_alone,
    measure,
    raw_head,
    report,
    sqnr,
    worst_first,
)
from export.ranges import Ranges

SOME = ("model.0.conv", "model.2.m.0.cv1.conv", "model.4.cv1.conv", "model.9.cv2.conv")


def ranges_of(net: nn.Module, images: Tensor) -> Ranges:
    simulation = simulated(net, images)
    return simulation.ranges(["onnxruntime"], [0.0] * len(simulation.points))


def rows_of(net: nn.Module, images: Tensor, ranges: Ranges) -> dict[str, LayerNoise]:
    """Rows of some layers."""
    fused = fused_copy(net)
    alone = layers_alone(fused, float_graph(net, IMGSZ), ranges, SOME)
    rows = measure(alone, raw_head(fused, [images]), [images], 0.5, lambda model: 0.25)
    found = {row.layer: row for row in rows}
    assert tuple(found) == SOME
    return found


def test_a_layer_with_outliers_among_its_weights_is_the_worst(
    net: nn.Module, images: Tensor
) -> None:
    """They meet a channel that is always zero: the float model is what it was."""
    net.model[3].bn.weight.data[0] = net.model[3].bn.bias.data[0] = 0.0
    before, ranges = output_of(net, images), ranges_of(net, images)
    plain = rows_of(net, images, ranges)
    weight = net.model[4].cv1.conv.weight.data
    weight[:, 0] = 100 * weight.abs().max()
    assert torch.equal(output_of(net, images), before)
    rows = rows_of(net, images, ranges)
    layer = "model.4.cv1.conv"
    assert worst_first([*rows.values()])[0].layer == layer
    assert rows.pop(layer).sqnr < plain.pop(layer).sqnr - 10
    assert rows == plain


def test_a_layer_with_ranges_far_too_wide_is_the_worst(net: nn.Module, images: Tensor) -> None:
    ranges, tensor, layer = ranges_of(net, images), "/model.9/cv2/conv/Conv_output_0", SOME[-1]
    wide = [
        replace(group, scale=40 * group.scale) if tensor in group.tensors else group
        for group in ranges.groups
    ]
    plain = rows_of(net, images, ranges)
    rows = rows_of(net, images, replace(ranges, groups=tuple(wide)))
    assert worst_first([*plain.values()])[0].layer != layer
    assert worst_first([*rows.values()])[0].layer == layer
    assert rows.pop(layer).sqnr < plain.pop(layer).sqnr - 10
    assert rows == plain


@pytest.fixture
def placed(net: nn.Module, images: Tensor) -> tuple[nn.Module, onnx.ModelProto, Ranges]:
    return fused_copy(net), float_graph(net, IMGSZ), ranges_of(net, images)


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_only_one_layer_is_rounded_and_all_is_float_behind_it(
    placed: tuple[nn.Module, onnx.ModelProto, Ranges], images: Tensor
) -> None:
    model, graph, ranges = placed
    before, hooks, keys = output_of(model, images), hooks_of(model), list(model.state_dict())
    forwards = {name: module.forward for name, module in model.named_modules()}
    for layer in SOME:
        for name, simulated_model in layers_alone(model, graph, ranges, [layer]):
            assert (name, simulated_model) == (layer, model)
            assert len(model.quantizers.weights) == 1
            assert not torch.equal(output_of(model, images), before)
        assert torch.equal(output_of(model, images), before)
        assert hooks_of(model) == hooks
        assert list(model.state_dict()) == keys
        assert {name: module.forward for name, module in model.named_modules()} == forwards


def test_a_loop_that_is_left_gives_the_model_back(
    placed: tuple[nn.Module, onnx.ModelProto, Ranges], images: Tensor
) -> None:
    model, graph, ranges = placed
    before = output_of(model, images)
    alone = layers_alone(model, graph, ranges, SOME)
    next(alone)
    alone.close()
    assert torch.equal(output_of(model, images), before)


def test_rows_say_what_was_lost(net: nn.Module, images: Tensor) -> None:
    rows = rows_of(net, images, ranges_of(net, images)).values()
    assert {(row.map50_95, row.drop, row.lost_ms) for row in rows} == {(0.25, 0.25, None)}
    assert all(5 < row.sqnr < 80 for row in rows)
    assert all(row.noise == pytest.approx(10 ** (-row.sqnr / 10)) for row in rows)


def slow_sqnr(clean: list[Tensor], noisy: list[Tensor]) -> float:
    shares = []
    for a, b in zip(clean, noisy, strict=True):
        pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
        shares.append(sum((x - y) ** 2 for x, y in pairs) / sum(x * x for x, _ in pairs))
    return -10 * math.log10(sum(shares) / len(shares))


@given(st.integers(0, 99), st.sampled_from([1e-3, 0.1, 1.0, 10.0]))
def test_sqnr_is_that_of_a_slow_loop(seed: int, noise: float) -> None:
    random = torch.Generator().manual_seed(seed)
    clean = [
        scale * torch.randn(2, 3, 5, generator=random, dtype=torch.float64)
        for scale in (1.0, 100.0, 0.01)
    ]
    noisy = [a + noise * torch.randn(a.shape, generator=random).double() for a in clean]
    assert sqnr(clean, noisy) == pytest.approx(slow_sqnr(clean, noisy), abs=1e-6)
    # each output counts by its own energy
    scaled = [[1000 * values[0], *values[1:]] for values in (clean, noisy)]
    assert sqnr(*scaled) == pytest.approx(sqnr(clean, noisy), abs=1e-6)


def test_equal_outputs_have_a_finite_ratio() -> None:
    same = [torch.randn(2, 3)]
    assert sqnr(same, same) == 99.0
    assert sqnr([torch.zeros(2)], [torch.zeros(2)]) == 99.0


def row(layer: str, noise_db: float, lost_ms: float | None) -> LayerNoise:
    return LayerNoise(layer, noise_db, 0.5, 0.0, lost_ms)


def test_layers_stay_float_by_noise_for_their_time() -> None:
    timed = [row("dear", 20.0, 1.0), row("cheap", 23.0, 0.1), row("clean", 60.0, 0.05)]
    assert [entry.layer for entry in worst_first(timed)] == ["cheap", "dear", "clean"]
    untimed = [replace(entry, lost_ms=None) for entry in timed]
    assert [entry.layer for entry in worst_first(untimed)] == ["dear", "cheap", "clean"]
    faster_in_float = [row("noisy", 20.0, -0.3), row("quiet", 40.0, -2.0), row("paid", 20.0, 0.3)]
    assert [r.layer for r in worst_first(faster_in_float)] == ["noisy", "quiet", "paid"]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.09, 0), (0.1, 1), (0.35, 3), (0.99, 9)])
def test_at_most_the_share_may_stay_float(share: float, count: int) -> None:
    rows = [row(f"layer{number}", 10.0 + number, None) for number in range(10)]
    content = report(0.5, rows[::-1], {"images": 4})
    assert float_candidates(content, share) == [f"layer{number}" for number in range(count)]


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_a_file_of_another_version_is_refused(version: object) -> None:
    content = report(0.5, [row("a", 20.0, None)], {}) | {"version": version}
    with pytest.raises(CompressError, match=f"version {version}.*int8_sensitivity"):
        float_candidates(content, 0.5)
