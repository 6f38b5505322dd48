"""First ranges of activations: every method on a net, broken nets, dull images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quantize_nets import simulated
from slow import slow
from small_nets import IMGSZ, output_of
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.exportable import exportable, fused_copy
from compress.pipeline.contract import Context
from compress.quantize import calibration
from compress.quantize.calibration import calibrate
from compress.quantize.prepare import simulate
from compress.quantize.range_check import check_ranges
from compress.quantize.simulation import Simulation
from compress.recipe.sections import Quantization
from compress.stages.quantization import calibration_images
from export.dialects import write_dialect
from export.float_onnx import export_float
from export.parity import run_onnx

METHODS = ["percentile", *slow("minmax", "mse")]  # entropy: the same path, more time


def ranges_of(simulation: Simulation) -> dict[str, tuple[float, float]]:
    """First tensor of each group -> its range."""
    shares = [0.0] * len(simulation.points)
    groups = simulation.ranges(["onnxruntime"], shares).groups
    return {group.tensors[0]: (group.low, group.high) for group in groups}


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
    assert max(check_ranges(whole, [images]).clipped) < 1e-6
    shares = check_ranges(cut, [images]).clipped
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_broken_weights_are_named(net: nn.Module, images: Tensor, part: str, bad: float) -> None:
    simulation = simulate(net, IMGSZ, [])
    conv = simulation.model.get_submodule("model.4.cv2.conv")
    getattr(conv, part).data.view(-1)[0] = bad
    with pytest.raises(
        CompressError, match=rf"'model\.4\.cv2\.conv\.{part}' holds NaN or infinite"
    ):
        calibrate(simulation, [images], "minmax", 100.0)


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_that_overflows_is_named(net: nn.Module, images: Tensor, method: str) -> None:
    for layer in (3, 4, 5):
        for module in net.model[layer].modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.fill_(1e18)
    simulation = simulate(net, IMGSZ, [])
    with pytest.raises(CompressError, match=r"'/model\.\d.*' is NaN or infinite"):
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
@pytest.mark.parametrize("border", [*slow(0), 8])
def test_one_black_image_gives_ranges_and_a_warning(
    net: nn.Module, method: str, border: int
) -> None:
    black = torch.zeros(1, 3, IMGSZ, IMGSZ)
    black[:, :, :border] = 114 / 255
    simulation = simulate(net, IMGSZ, [])
    calibrate(simulation, [black], method, 99.9)
    notes = check_ranges(simulation, [black]).notes
    assert any("different pixel values" in note for note in notes)
    assert all(low <= 0.0 < high for low, high in ranges_of(simulation).values())
    assert torch.isfinite(output_of(simulation.model, black)).all()


@pytest.mark.parametrize("method", METHODS)
def test_ranges_of_one_black_image_give_an_exported_file_without_nan(
    net: nn.Module, images: Tensor, method: str, tmp_path: Path
) -> None:
    simulation = simulate(net, IMGSZ, [])
    calibrate(simulation, [torch.zeros(1, 3, IMGSZ, IMGSZ)], method, 99.9)
    ranges = simulation.ranges(["onnxruntime"], [0.0] * len(simulation.points))
    export_float(exportable(net), IMGSZ, tmp_path / "float.onnx")
    write_dialect("onnxruntime", tmp_path / "float.onnx", ranges, tmp_path / "int8.onnx")
    inputs = [torch.zeros(1, 3, IMGSZ, IMGSZ).numpy(), images[:1].numpy()]
    run_onnx(tmp_path / "int8.onnx", inputs)  # refuses NaN


def test_real_images_on_a_sound_net_give_no_warning(net: nn.Module, images: Tensor) -> None:
    simulation = simulated(net, images)
    assert not check_ranges(simulation, [images]).notes
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    calibrate(simulation, [grey], "minmax", 100.0)
    assert not check_ranges(simulation, [grey]).notes


def test_the_tensor_that_is_clipped_most_is_named(net: nn.Module, images: Tensor) -> None:
    simulation = simulated(net, images)
    quantizer = simulation.points[3][0][1].quantizer
    quantizer.set_range(0.0, 1e-3)
    check = check_ranges(simulation, [images])
    assert check.clipped[3] == max(check.clipped) > 0.5
    (note,) = check.notes
    assert simulation.points[3][0][0].tensor in note


def test_tensors_that_never_change_are_counted(net: nn.Module, images: Tensor) -> None:
    block = net.model[5]
    block.bn.weight.data.zero_()
    block.bn.bias.data.fill_(0.7)  # a dead layer with a bias
    simulation = simulate(net, IMGSZ, [])
    calibrate(simulation, [images], "mse", 99.9)
    note = check_ranges(simulation, [images]).notes[-1]
    assert "3 tensors never changed" in note  # with the sigmoid
    assert "/model.5/" in note
    low, high = ranges_of(simulation)["/model.5/conv/Conv_output_0"]
    assert low == pytest.approx(0.0, abs=0.01)
    assert high == pytest.approx(0.7, rel=0.01)


@pytest.mark.parametrize("method", ["percentile", *slow("mse")])
def test_counting_some_values_gives_almost_the_ranges_of_counting_all(
    net: nn.Module, images: Tensor, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = ranges_of(simulated(net, images, method=method))
    monkeypatch.setattr(calibration, "_SAMPLE", 2000)
    some = ranges_of(simulated(net, images, method=method))
    widths = [
        (some[tensor][1] - some[tensor][0]) / (high - low)
        for tensor, (low, high) in everything.items()
    ]
    assert some != everything
    assert sum(widths) / len(widths) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("method", [*slow("percentile"), "mse", "entropy"])
def test_methods_lie_within_the_extremes(net: nn.Module, images: Tensor, method: str) -> None:
    whole = ranges_of(simulated(net, images))
    for tensor, (low, high) in ranges_of(simulated(net, images, method=method)).items():
        least, most = whole[tensor]
        step = (most - least) / 255  # the zero point is rounded
        assert low >= least - step
        assert high <= most + step


def test_calibration_images_that_are_measured_on_are_refused(
    make_context: Callable[[str], Context],
) -> None:
    context, config = make_context("ptq"), Quantization()
    assert len(calibration_images(config, context).paths) == 16
    splits = context.data.splits
    leaking = {**splits, "test": (*splits["test"], splits["train"][3])}
    context = replace(context, data=replace(context.data, splits=leaking))
    with pytest.raises(CompressError, match=splits["train"][3].name):
        calibration_images(config, context)


def test_calibration_leaves_weights_and_mode_alone(net: nn.Module, images: Tensor) -> None:
    simulation = simulate(net, IMGSZ, [])
    before = {k: v.clone() for k, v in fused_copy(net).state_dict().items()}
    calibrate(simulation, [images], "percentile", 99.9)
    after = simulation.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not simulation.model.training
