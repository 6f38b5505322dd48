"""Fake INT8 on a model: put on, copied, trained, saved, loaded and taken off again."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from quantize_nets import simulated
from slow import slow
from small_nets import IMGSZ, NAMES, output_of, settled_net
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.build import build_model
from compress.models.evaluate import evaluate
from compress.models.exportable import fused_copy, unfuse_into
from compress.quantize.fake_quantizer import FakeQuantizer, WeightQuantizer
from compress.quantize.prepare import place, simulate
from compress.quantize.scales import ScaleTraining, learned_scales
from compress.quantize.simulation import Simulation
from export.ranges import load_ranges


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_put_on_and_taken_off_a_model_is_what_it_was(net: nn.Module, images: Tensor) -> None:
    fused = fused_copy(net)
    keys, before, hooks = list(fused.state_dict()), output_of(fused, images), hooks_of(fused)
    weights = deepcopy(fused.state_dict())
    simulation = Simulation(fused, place(net, IMGSZ, []))
    assert not torch.equal(output_of(fused, images), before)
    simulation.remove()
    assert list(fused.state_dict()) == keys
    assert all(torch.equal(fused.state_dict()[key], weights[key]) for key in keys)
    assert torch.equal(output_of(fused, images), before)
    assert hooks_of(fused) == hooks


def test_simulation_works_on_a_copy_of_the_model(net: nn.Module, images: Tensor) -> None:
    before, weights = output_of(net, images), deepcopy(net.state_dict())
    simulated(net, images)
    assert torch.equal(output_of(net, images), before)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in weights.items())


def test_weights_of_int8_convolutions_are_rounded(net: nn.Module, images: Tensor) -> None:
    """So rounding them beforehand changes nothing, where it does change the float model."""
    simulation, fused = simulated(net, images), fused_copy(net)
    before, float_before = output_of(simulation.model, images), output_of(fused, images)
    for model in (simulation.model, fused):
        modules = dict(model.named_modules())
        for name in simulation.placement.convs:
            modules[name].weight.data = WeightQuantizer()(modules[name].weight.data).detach()
    assert (output_of(simulation.model, images) - before).abs().median() < 1e-4
    assert (output_of(fused, images) - float_before).abs().median() > 1e-3


def test_activations_are_rounded_at_each_point(net: nn.Module, images: Tensor) -> None:
    simulation = simulated(net, images)
    seen: list[Tensor] = []
    block = simulation.model.model[0]
    block.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    output_of(simulation.model, images)
    for tensor in seen:  # image, and the activation behind the first convolution
        assert len(tensor.unique()) <= 256
    by_operator = {point.operator for group in simulation.points for point, _ in group}
    assert by_operator == {"Input", "Conv", "Sigmoid", "Mul", "Add"}


def test_a_float_layer_keeps_its_weights_and_the_rest_stays_simulated(
    net: nn.Module, images: Tensor
) -> None:
    whole, part = simulated(net, images), simulated(net, images, ["model.4", "model.2.m.0.cv2"])
    kept = set(whole.placement.convs) - set(part.placement.convs)
    assert kept == {
        "model.2.m.0.cv2.conv",
        "model.4.cv1.conv",
        "model.4.cv2.conv",
        "model.4.m.0.cv1.conv",
        "model.4.m.0.cv2.conv",
    }
    modules, before = dict(part.model.named_modules()), output_of(part.model, images)
    for name in kept:
        weight = modules[name].weight.data
        modules[name].weight.data = WeightQuantizer()(weight).detach()
        changed = (output_of(part.model, images) - before).abs().median()
        assert changed > 1e-3, name  # so it was not rounded before
        modules[name].weight.data = weight


def test_a_copy_is_simulated_too_and_lives_its_own_life(net: nn.Module, images: Tensor) -> None:
    model = simulated(net, images).model
    before = output_of(model, images)
    copy = deepcopy(model)
    assert torch.equal(output_of(copy, images), before)
    assert not torch.equal(before, output_of(fused_copy(net), images))
    for quantizer in copy.quantizers.activations:
        quantizer.set_range(-1.0, 1.0)
    assert not torch.equal(output_of(copy, images), before)  # its own quantizers are at work
    assert torch.equal(output_of(model, images), before)
    for parameter in copy.parameters():
        parameter.data.zero_()
    assert torch.equal(output_of(model, images), before)


def test_weights_and_scales_travel_in_the_state_dict(net: nn.Module, images: Tensor) -> None:
    trained = simulated(net, images)
    for parameter in learned_scales(trained.quantizers):
        parameter.data.add_(0.01)
    for name, parameter in trained.model.model.named_parameters():
        if ".dfl." not in name:  # fixed numbers
            parameter.data.mul_(1.01)
    fresh = simulate(net, IMGSZ, [])
    fresh.model.load_state_dict(trained.model.state_dict())
    assert torch.equal(output_of(fresh.model, images), output_of(trained.model, images))


def test_validation_sees_the_simulation(
    net: nn.Module, images: Tensor, data_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ultralytics' validator copies and fuses what it gets; the mAP must still be that of INT8."""
    simulation = simulated(net, images)
    calls: list[int] = []
    forward = FakeQuantizer.forward

    def counted(self: FakeQuantizer, x: Tensor) -> Tensor:
        calls.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(FakeQuantizer, "forward", counted)
    evaluate(simulation.model, data_yaml, IMGSZ)
    points = sum(len(group) for group in simulation.points)
    assert sum(calls) >= 8 * points  # of 8 images, each point


def test_gradients_reach_weights_and_scales(net: nn.Module, images: Tensor) -> None:
    simulation = simulated(net, images)
    model = simulation.model.requires_grad_(True).train()
    features = model.model[0](images)
    features = model.model[2](model.model[1](features))
    features.square().mean().backward()
    assert float(model.model[2].cv1.conv.weight.grad.abs().sum()) > 0
    moved = {
        group[0][0].tensor
        for group, (_, quantizer) in zip(simulation.points, simulation.groups, strict=True)
        if any(p.grad is not None and p.grad.abs().sum() > 0 for p in quantizer.parameters())
    }
    assert "/model.1/conv/Conv_output_0" in moved


def test_scales_are_trained_apart_and_never_decay(net: nn.Module, images: Tensor) -> None:
    simulation = simulated(net, images)
    (group,) = ScaleTraining().parameter_groups(simulation.model, 0.01)
    trained = [quantizer for _, quantizer in simulation.groups if quantizer.mode == "learned"]
    assert {id(p) for p in group["params"]} == {id(q.log_scale) for q in trained}
    assert 0 < len(trained) < len(simulation.groups)  # sigmoids are known for certain
    assert group["weight_decay"] == 0.0
    assert group["lr"] > 0


def test_unfused_and_fused_again_the_weights_are_the_very_same(
    net: nn.Module, images: Tensor
) -> None:
    fused = fused_copy(net)
    torch.manual_seed(1)
    for name, parameter in fused.named_parameters():
        if ".dfl." not in name:  # fixed numbers
            parameter.data += 0.02 * torch.randn_like(parameter)  # as after training
    plain_before = deepcopy(net.state_dict())
    unfused = unfuse_into(fused, net)
    assert list(unfused.state_dict()) == list(net.state_dict())
    again = fused_copy(unfused)
    for key, value in fused.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert torch.equal(output_of(again, images), output_of(fused, images))
    assert torch.allclose(output_of(unfused, images), output_of(fused, images), atol=1e-3)
    assert not torch.allclose(output_of(net, images), output_of(fused, images), atol=1e-2)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in plain_before.items())


def test_unfusing_a_simulated_model_leaves_no_quantizer(net: nn.Module, images: Tensor) -> None:
    plain = unfuse_into(simulated(net, images).model, net)
    assert list(plain.state_dict()) == list(net.state_dict())
    assert torch.allclose(output_of(plain, images), output_of(net, images), atol=1e-3)


def test_ranges_survive_their_file(net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    simulation = simulated(net, images)
    shares = [index / 1000 for index in range(len(simulation.points))]
    ranges = simulation.ranges(["onnxruntime"], shares)
    ranges.save(tmp_path / "ranges.json")
    loaded = load_ranges(tmp_path / "ranges.json")
    assert loaded == ranges
    assert [group.clipped for group in loaded.groups] == shares
    other = simulated(net, images[:1] * 0.5)
    assert not torch.equal(output_of(other.model, images), output_of(simulation.model, images))
    other.load_ranges(loaded)
    for (_, old), (_, new) in zip(simulation.groups, other.groups, strict=True):
        assert int(old.zero_point) == int(new.zero_point)
        assert float(new.scale.detach()) == pytest.approx(float(old.scale.detach()), rel=2e-6)
    difference = (output_of(other.model, images) - output_of(simulation.model, images)).abs()
    assert float(difference.median()) < 1e-3


def test_ranges_of_another_model_are_refused(
    net: nn.Module, net_yaml: Path, images: Tensor, tmp_path: Path
) -> None:
    yaml = tmp_path / "deep.yaml"
    yaml.write_text(net_yaml.read_text().replace("depth_multiple: 0.33", "depth_multiple: 0.67"))
    deep = simulated(build_model(yaml, NAMES, 0), images)
    shallow = simulated(net, images)
    part = simulated(net, images, ["model.4"])
    for one, other in [(deep, shallow), (shallow, deep), (shallow, part), (part, shallow)]:
        ranges = other.ranges(["onnxruntime"], [0.0] * len(other.points))
        with pytest.raises(CompressError, match="belongs to another model"):
            one.load_ranges(ranges)


def test_an_untrained_net_can_be_simulated(net_yaml: Path, images: Tensor) -> None:
    """Its biases are all equal, which exporters like to store once."""
    net = build_model(net_yaml, NAMES, 0)
    simulation = simulated(net, images)
    assert len(simulation.placement.convs) == 53
    assert torch.isfinite(output_of(simulation.model, images)).all()


@pytest.mark.parametrize(
    "activation", ["ReLU()", "Hardswish()", *slow("LeakyReLU(0.1)", "Identity()")]
)
def test_other_activations_are_rounded_too(
    activation: str, net_yaml: Path, images: Tensor, tmp_path: Path
) -> None:
    yaml = tmp_path / "other.yaml"
    yaml.write_text(f"activation: nn.{activation}\n{net_yaml.read_text()}")
    simulation = simulated(settled_net(yaml, images), images)
    seen: list[Tensor] = []
    first = simulation.model.model[0]
    first.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output_of(simulation.model, images)
    assert len(seen[0].unique()) <= 256
