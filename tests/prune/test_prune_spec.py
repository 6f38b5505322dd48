"""A spec is data from anywhere: nothing in it is run, and nonsense is refused plainly."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

import pytest
import torch
from structure_nets import cut_at_random, family_net
from torch import nn

from compress.errors import CompressError
from compress.prune.spec import build_from_spec, spec_of
from compress.prune.structure import PrunableModel

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pruned() -> nn.Module:
    structure = PrunableModel(family_net("scaled-residual", IMAGE))
    cut_at_random(structure, 4)
    return structure.plain()


@pytest.fixture(scope="module")
def written(pruned: nn.Module) -> str:
    pruned.yaml["yaml_file"] = "/somebody/at/home.yaml"
    return json.dumps(spec_of(pruned))


def test_it_survives_json_and_holds_no_path(pruned: nn.Module, written: str) -> None:
    assert "home" not in written
    rebuilt = build_from_spec(json.loads(written))
    rebuilt.load_state_dict(pruned.state_dict())
    assert rebuilt.names == pruned.names


def test_a_net_that_its_yaml_does_not_describe_is_named(pruned: nn.Module) -> None:
    other = deepcopy(pruned)
    other.model[1].act = nn.Tanh()
    with pytest.raises(CompressError, match="its blocks compute something else"):
        spec_of(other)


def _first_layer(spec: dict[str, Any], name: str) -> None:
    spec["architecture"]["backbone"][0] = [-1, 1, name, [16, 3, 2]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s["architecture"].update(activation="print('run')"), "activation"),
        (lambda s: s["architecture"].update(activation="nn.ReLU().__class__"), "activation"),
        (lambda s: _first_layer(s, "TorchVision"), "layer 'TorchVision'"),
        (lambda s: _first_layer(s, "os.system"), "layer 'os.system'"),
        (lambda s: _first_layer(s, "nn.Module"), "layer 'nn.Module'"),
        (lambda s: s["architecture"]["backbone"][0].__setitem__(1, 10**6), "repeated"),
        (lambda s: s["architecture"]["backbone"][0][3].append("__import__('os')"), "text"),
        (lambda s: s["architecture"].update(weights="x.pt"), "unknown key 'weights'"),
        (lambda s: s["architecture"].update(backbone=3), "lists of layers"),
        (lambda s: s["architecture"].update(head=[]), "last layer is C2fPSA"),
        (lambda s: s.update(task="segment"), "does not serve the task"),
        (lambda s: s.update(task="fly"), "unknown task 'fly'"),
        (lambda s: s.update(version=2), "`version`"),
        (lambda s: s.update(more=1), "`more`"),
        (lambda s: s.pop("layers"), "`layers`"),
        (lambda s: s["layers"].update({"model.0.conv": [3, 0]}), "model.0.conv"),
        (lambda s: s["layers"].update({"model.0.conv": [3, 10**9]}), "model.0.conv"),
        (lambda s: s["layers"].update({"model.0.conv": [3, 5]}), "do not fit together"),
        (lambda s: s["layers"].update({"model.0.act": [3, 5]}), "no layer 'model.0.act'"),
        (lambda s: s["blocks"].clear(), "`blocks`"),
        (lambda s: s["names"].append("one more"), "4 class names"),
    ],
)
def test_nonsense_is_refused(spoil: Any, message: str, written: str) -> None:
    spec = json.loads(written)
    spoil(spec)
    with pytest.raises(CompressError, match=re.escape(message)):
        build_from_spec(spec)
