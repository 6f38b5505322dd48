"""Pruning real nets to a budget: what is promised holds of the net that comes out."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_nets import IMGSZ, output_of, settled_net, write_net_yaml
from torch import Tensor, nn

from compress.errors import CompressError
from compress.models.blocks.expanded import Expanded
from compress.models.build import build_model
from compress.models.inspect import conv_widths, count_macs, count_params, dfl_convs, head_outputs
from compress.prune.cost import keep_share
from compress.prune.prune import Exemptions, Importance, Pruned, prune_model
from compress.prune.scores import SCORES, random_score
from compress.prune.solver import Rules

ALIGN = 4


def pruned_to(
    model: nn.Module, keep: float, resource: str = "macs", most: float = 0.9, **given: Any
) -> Pruned:
    importance = given.pop("importance", Importance())
    exemptions = Exemptions(given.pop("ignore", ()), given.pop("min_channels", {}))
    rules = Rules(given.pop("align", ALIGN), most, **given)
    return prune_model(
        model, keep_share(model, IMGSZ, resource, keep), rules, importance, exemptions
    )


@pytest.fixture(scope="module")
def v5_net(images: Tensor) -> nn.Module:
    return settled_net(Path("yolov5n.yaml"), images)


@pytest.fixture(scope="module", params=["c2f", "c3", "v5n"])
def dense(
    request: pytest.FixtureRequest,
    _settled: nn.Module,
    images: Tensor,
    tmp_path_factory: pytest.TempPathFactory,
) -> nn.Module:
    if request.param == "c2f":
        return _settled
    if request.param == "v5n":
        return settled_net(Path("yolov5n.yaml"), images)
    yaml = write_net_yaml(tmp_path_factory.mktemp("c3") / "c3.yaml", width=0.125)
    yaml.write_text(yaml.read_text().replace("C2f", "C3"))
    return settled_net(yaml, images)


@pytest.fixture(scope="module")
def pruned(dense: nn.Module) -> Pruned:
    return pruned_to(dense, 0.4)


def test_macs_are_what_the_plan_says(dense: nn.Module, pruned: Pruned) -> None:
    assert count_macs(dense, IMGSZ) == pruned.plan.before
    assert count_macs(pruned.model, IMGSZ) == pruned.plan.after
    assert pruned.plan.after / pruned.plan.before == pytest.approx(0.4, abs=0.004)


def test_parameters_are_what_the_plan_says(dense: nn.Module) -> None:
    pruned = pruned_to(dense, 0.5, "params")
    assert count_params(dense) == pruned.plan.before
    assert count_params(pruned.model) == pruned.plan.after
    assert pruned.plan.after / pruned.plan.before == pytest.approx(0.5, rel=0.01)


def test_every_width_is_a_multiple_of_align(pruned: Pruned) -> None:
    outputs = {*head_outputs(pruned.model), *dfl_convs(pruned.model)}
    odd = {
        name: width
        for name, width in conv_widths(pruned.model).items()
        if width % ALIGN and name not in outputs
    }
    assert odd == {}


def test_no_layer_loses_more_than_the_cap(dense: nn.Module) -> None:
    capped = pruned_to(dense, 0.5, most=0.5).model
    before = conv_widths(dense)
    assert all(width >= before[name] / 2 for name, width in conv_widths(capped).items())


def test_the_parent_is_left_alone(net: nn.Module, images: Tensor) -> None:
    before, shapes = output_of(net, images), conv_widths(net)
    pruned_to(net, 0.5)
    assert torch.equal(output_of(net, images), before)
    assert conv_widths(net) == shapes
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_the_result_holds_nothing_that_only_pruning_needs(pruned: Pruned) -> None:
    assert not any(isinstance(module, Expanded) for module in pruned.model.modules())
    assert {type(module).__module__.split(".")[0] for module in pruned.model.modules()} <= {
        "torch",
        "ultralytics",
    }


def test_pruning_twice_gives_the_same_net(net: nn.Module) -> None:
    first, second = (pruned_to(deepcopy(net), 0.5) for _ in range(2))
    assert first.plan.removed == second.plan.removed
    weights = second.model.state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in first.model.state_dict().items())


def test_channels_that_do_nothing_go_first(net: nn.Module) -> None:
    idle = [1, 2, 5, 6]
    net.model[3].conv.weight.data[idle] = 0.0
    net.model[4].cv1.conv.weight.data[:, idle] = 0.0
    assert set(pruned_to(net, 0.9).plan.removed["model.3.conv"]) == set(idle)


@pytest.mark.parametrize("name", [*SCORES, "random"])
def test_every_score_meets_the_target(name: str, net: nn.Module) -> None:
    score = random_score(3) if name == "random" else SCORES[name]
    evidence = {"taylor": "gradient", "hessian": "curvature"}
    holder = deepcopy(net)
    for parameter in holder.parameters():
        parameter.data.uniform_(0, 1, generator=torch.Generator().manual_seed(0))
    given = {evidence[name]: holder} if name in evidence else {}
    found = pruned_to(net, 0.5, importance=Importance(score, **given))
    assert count_macs(found.model, IMGSZ) / count_macs(net, IMGSZ) == pytest.approx(0.5, rel=0.01)


def test_scores_differ_in_what_they_remove(net: nn.Module) -> None:
    plans = [
        tuple(sorted(pruned_to(net, 0.5, importance=Importance(score)).plan.removed.items()))
        for score in (*(SCORES[n] for n in ("lamp", "l1", "bn_scale")), random_score(0))
    ]
    assert len(set(plans)) == len(plans)


def test_local_scope_takes_the_same_share_of_every_layer(net: nn.Module) -> None:
    found = pruned_to(net, 0.5, scope="local")
    before = conv_widths(net)
    outputs = {*head_outputs(net), *dfl_convs(net)}
    shares = {
        name: width / before[name]
        for name, width in conv_widths(found.model).items()
        if name not in outputs and before[name] >= 8 * ALIGN
    }
    assert max(shares.values()) - min(shares.values()) <= 2 * ALIGN / (8 * ALIGN)
    spread = pruned_to(net, 0.5, scope="global")
    wide = [w / before[n] for n, w in conv_widths(spread.model).items() if n in shares]
    assert max(wide) - min(wide) > max(shares.values()) - min(shares.values())


def test_a_weight_on_a_layer_spares_it(net: nn.Module) -> None:
    plain = pruned_to(net, 0.5).plan.removed
    root = max(plain, key=lambda name: len(plain[name]))
    spared = pruned_to(net, 0.5, importance=Importance(weights={root: 1e6})).plan.removed
    assert len(spared.get(root, ())) < len(plain[root])


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("model.4", "model.4."),
        ("model.6.cv1", "model.6.cv1."),
        ("model.?.conv", "model.7.conv"),
        ("*.m.0.cv2", "model.4.m.0.cv2."),  # added to half of cv1, which must stay whole too
        ("*.m.0.cv2.conv", "model.12.m.0.cv2."),
    ],
)
def test_ignored_layers_keep_their_outputs(pattern: str, kept: str, net: nn.Module) -> None:
    model = pruned_to(net, 0.35, ignore=[pattern]).model
    before, after = conv_widths(net), conv_widths(model)
    same = [name for name in before if name.startswith(kept)]
    assert same
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after != before


def test_floors_hold_for_the_outputs_of_the_layers_they_name(net: nn.Module) -> None:
    free = conv_widths(pruned_to(net, 0.3).model)
    floors = {"model.7.conv": 40, "model.8.cv1": 48}
    held = conv_widths(pruned_to(net, 0.3, min_channels=floors).model)
    assert held["model.7.conv"] >= 40 > free["model.7.conv"]
    assert held["model.8.cv1.conv"] >= 48 > free["model.8.cv1.conv"]  # of both halves together
    assert held["model.6.cv2.conv"] < 40  # read by the first, but not named


def test_a_layer_behind_the_last_convolution_counts_its_parameters() -> None:
    model = build_model(Path("yolov8n-cls.yaml"), dict(enumerate(map(str, range(100)))), 0)
    found = pruned_to(model, 0.5, "params", align=8)
    assert count_params(found.model) == found.plan.after
    assert count_params(found.model) / count_params(model) == pytest.approx(0.5, rel=0.01)


def test_outputs_of_the_head_keep_their_width(net: nn.Module) -> None:
    before = conv_widths(net)
    after = conv_widths(pruned_to(net, 0.1, most=0.95).model)
    for name in (*head_outputs(net), *dfl_convs(net)):
        assert after[name] == before[name]


@pytest.mark.parametrize("given", [{"ignore": ["model.99.*"]}, {"min_channels": {"model.99.*": 8}}])
def test_a_pattern_that_matches_nothing_is_named(given: dict[str, Any], net: nn.Module) -> None:
    with pytest.raises(CompressError, match=r"'model\.99\.\*' matches no layer"):
        pruned_to(net, 0.5, **given)
