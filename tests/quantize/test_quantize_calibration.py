"""First ranges of activations: percentiles of known histograms, broken nets, dull images."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_nets import simulated
from small_nets import IMGSZ, output_of
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.exportable import fused_copy
from compress.quantize.calibration import calibrate, clipped_shares, percentile_range
from compress.quantize.prepare import simulate
from compress.quantize.simulation import Simulation

METHODS = ["minmax", "percentile"]


def ranges_of(simulation: Simulation) -> dict[str, tuple[float, float]]:
    """First tensor of each group -> its range."""
    shares = [0.0] * len(simulation.points)
    groups = simulation.ranges("onnxruntime", shares).groups
    return {group.tensors[0]: (group.low, group.high) for group in groups}


def test_percentile_of_an_even_histogram_cuts_equal_ends() -> None:
    counts = torch.ones(100, dtype=torch.float64)
    assert percentile_range(counts, -1.0, 1.0, 95.0) == pytest.approx((-0.9, 0.9))
    assert percentile_range(counts, 0.0, 50.0, 99.0) == pytest.approx((0.5, 49.5))
    assert percentile_range(counts, -1.0, 1.0, 100.0) == pytest.approx((-1.0, 1.0))


def test_percentile_drops_a_lone_outlier_and_keeps_the_rest() -> None:
    counts = torch.zeros(10, dtype=torch.float64)
    counts[2], counts[3], counts[9] = 499.0, 500.0, 1.0
    assert percentile_range(counts, 0.0, 10.0, 99.0) == pytest.approx((2.0, 4.0))
    assert percentile_range(counts, 0.0, 10.0, 99.9999) == pytest.approx((2.0, 10.0))


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 1000), min_size=2, max_size=60).filter(any),
    percentile=st.floats(50.5, 100.0),
)
def test_percentile_leaves_out_as_much_as_it_may_and_no_more(
    counts: list[int], percentile: float
) -> None:
    histogram = torch.tensor(counts, dtype=torch.float64)
    low, high = percentile_range(histogram, 0.0, float(len(counts)), percentile)
    first, last, allowed = round(low), round(high), (100 - percentile) / 100 * sum(counts)
    assert 0 <= first < last <= len(counts)
    assert sum(counts[:first]) <= allowed + 1e-6
    assert sum(counts[last:]) <= allowed + 1e-6
    assert sum(counts[: first + 1]) > allowed - 1e-6  # one bin more would be too much
    assert sum(counts[last - 1 :]) > allowed - 1e-6


def test_minmax_takes_the_extremes_of_all_batches(net: nn.Module, images: Tensor) -> None:
    simulation = simulate(net, IMGSZ, [])
    calibrate(simulation, [images[:4], images[4:]], "minmax", 100.0)
    first = fused_copy(net).model[0]
    with torch.no_grad():
        low, high = first.conv(images).aminmax()  # in float: weights in INT8 differ a little
    found = ranges_of(simulation)["/model.0/conv/Conv_output_0"]
    assert found == pytest.approx((float(low), float(high)), rel=0.05)


def test_percentile_is_narrower_than_minmax_and_clips_what_it_says(
    net: nn.Module, images: Tensor
) -> None:
    whole, cut = simulated(net, images), simulated(net, images, method="percentile")
    for tensor, (low, high) in ranges_of(whole).items():
        inner = ranges_of(cut)[tensor]
        assert inner[1] - inner[0] <= (high - low) * 1.001
    assert max(clipped_shares(whole, [images])) < 1e-6
    shares = clipped_shares(cut, [images])
    assert 0 < sum(shares) / len(shares) < 0.0025  # of 99.9: a thousandth at either end


@pytest.mark.parametrize("method", METHODS)
def test_batches_may_come_from_anything_that_can_be_walked_twice(
    net: nn.Module, images: Tensor, method: str
) -> None:
    class Batches:
        def __iter__(self) -> Iterator[Tensor]:
            yield from images.split(3)

    simulation = simulate(net, IMGSZ, [])
    calibrate(simulation, Batches(), method, 99.9)
    other = simulate(net, IMGSZ, [])
    calibrate(other, list(images.split(3)), method, 99.9)
    assert ranges_of(simulation) == ranges_of(other)


def test_an_image_has_the_range_zero_to_one_and_a_sigmoid_too(
    net: nn.Module, images: Tensor
) -> None:
    found = ranges_of(simulated(net, images * 0.3))
    assert found["images"] == pytest.approx((0.0, 1.0))
    assert found["/model.0/act/Sigmoid_output_0"] == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize("method", METHODS)
def test_a_broken_net_is_named_by_its_tensor(net: nn.Module, images: Tensor, method: str) -> None:
    net.model[4].cv2.bn.bias.data[0] = float("nan")
    simulation = simulate(net, IMGSZ, [])
    with pytest.raises(CompressError, match=r"'/model\.4/cv2/conv/Conv_output_0' is NaN"):
        calibrate(simulation, [images], method, 99.9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch", [0, 1])
def test_nan_in_any_batch_is_noticed(
    net: nn.Module, images: Tensor, bad: float, batch: int
) -> None:
    batches = [images[:2].clone(), images[2:4].clone()]
    batches[batch][0, 0, 5, 5] = bad
    simulation = simulate(net, IMGSZ, [])
    with pytest.raises(CompressError, match="NaN or infinite"):
        calibrate(simulation, batches, "minmax", 100.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_layer_gets_a_usable_range(net: nn.Module, images: Tensor, method: str) -> None:
    block = net.model[5]
    block.conv.weight.data.zero_()
    block.bn.weight.data.zero_()
    block.bn.bias.data.zero_()
    simulation = simulated(net, images, method=method)
    dead = ranges_of(simulation)["/model.5/conv/Conv_output_0"]
    assert dead[0] <= 0.0 < dead[1]
    expected = output_of(fused_copy(net), images)
    assert torch.isfinite(output_of(simulation.model, images)).all()
    assert (output_of(simulation.model, images) - expected).abs().median() < 1.0


@pytest.mark.parametrize("method", METHODS)
def test_one_black_image_is_enough_to_go_on(net: nn.Module, method: str) -> None:
    black = torch.zeros(1, 3, IMGSZ, IMGSZ)
    simulation = simulated(net, black, method=method)
    assert all(low <= 0.0 < high for low, high in ranges_of(simulation).values())
    assert torch.isfinite(output_of(simulation.model, black)).all()


def test_calibration_leaves_weights_and_mode_alone(net: nn.Module, images: Tensor) -> None:
    simulation = simulate(net, IMGSZ, [])
    before = {k: v.clone() for k, v in fused_copy(net).state_dict().items()}
    calibrate(simulation, [images], "percentile", 99.9)
    after = simulation.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not simulation.model.training
