"""The prune stage: steps, statistics, time targets and what it leaves beside the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_nets import IMGSZ
from stage_chain import TRAIN, Ran, artifact, run_stage
from torch import nn

import compress.stages.prune as stage
from compress.data.dataset import DataSet
from compress.models.build import build_model
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.models.inspect import count_macs
from compress.pipeline.contract import Artifact
from compress.prune.cost import macs_cost, total_of
from compress.prune.solver import Cost
from compress.prune.spec import build_from_spec

UNTIMED = {"never_slower": False}
PRUNE: dict[str, Any] = {"stage": "prune", "target": {"macs": 0.5}, "align": 4, "accept": UNTIMED}


@pytest.fixture(scope="module")
def parent(dataset: DataSet, net_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("parent") / "model.pt"
    save_checkpoint(build_model(net_yaml, dict(dataset.names), 0), path)
    return artifact(path)


@pytest.fixture
def prune(dataset: DataSet, parent: Artifact, tmp_path: Path) -> Any:
    def run(folder: str = "run", inputs: Any = None, **config: Any) -> Ran:
        given = {"checkpoint": parent, **(inputs or {})}
        return run_stage({**PRUNE, **config}, given, dataset, tmp_path / folder)

    return run


def model_of(ran: Ran) -> nn.Module:
    return load_checkpoint(ran.files["checkpoint"])


def test_the_spec_beside_the_checkpoint_rebuilds_its_architecture(prune: Any) -> None:
    ran = prune()
    rebuilt = build_from_spec(json.loads(ran.files["spec"].read_text()))
    rebuilt.load_state_dict(model_of(ran).state_dict())
    assert count_macs(rebuilt, IMGSZ) == ran.metrics["macs"]


@pytest.mark.parametrize(
    ("target", "keep"),
    [({"macs": 0.6}, 0.6), ({"speedup": 2.0}, 0.5), ({"params": 0.5}, 0.5)],
)
def test_the_target_is_met_and_said(target: dict[str, float], keep: float, prune: Any) -> None:
    metrics = prune(target=target, bn_images=0).metrics
    assert metrics["target"]["keep"] == keep
    assert metrics["target"]["kept"] == pytest.approx(keep, rel=0.01)
    assert "timing" not in metrics
    assert metrics["batchnorm"] == {}


def test_statistics_are_taken_anew_only_where_that_is_better(
    prune: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def means(ran: Ran) -> torch.Tensor:
        norms = [m for m in model_of(ran).modules() if isinstance(m, nn.BatchNorm2d)]
        return torch.cat([norm.running_mean for norm in norms])

    as_cut = means(prune("off", bn_images=0))
    for better, name in ((True, "better"), (False, "worse")):
        scores = iter([0.2, 0.3 if better else 0.1])
        monkeypatch.setattr(stage._Pruning, "_map", lambda *_, scores=scores: next(scores))
        ran = prune(name, bn_images=16)
        assert torch.equal(means(ran), as_cut) is not better
        assert ran.metrics["batchnorm"] == {"as_cut": 0.2, "reestimated": 0.3 if better else 0.1}


ITERATIVE: dict[str, Any] = {
    "steps": 3,
    "recover": {
        "train": TRAIN,
        "distill": {"teachers": ["base"], "losses": [{"kind": "cwd"}]},
    },
}


@pytest.fixture(scope="module")
def straight(dataset: DataSet, parent: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Cut in steps, without a break."""
    inputs = {"checkpoint": parent, "teacher.0": parent}
    folder = tmp_path_factory.mktemp("straight")
    return run_stage({**PRUNE, **ITERATIVE}, inputs, dataset, folder / "run")


def test_steps_cut_equal_shares_and_train_jointly_with_distillation(
    prune: Any, straight: Ran
) -> None:
    steps = straight.metrics["steps"]
    assert [step["keep"] for step in steps] == pytest.approx([0.5 ** (i / 3) for i in (1, 2, 3)])
    for step in steps:
        assert step["macs_kept"] == pytest.approx(step["keep"], rel=0.02)
    once = prune("once")
    assert count_macs(model_of(straight), IMGSZ) == pytest.approx(
        count_macs(model_of(once), IMGSZ), rel=0.02
    )


@pytest.mark.slow
def test_a_run_killed_between_steps_ends_with_the_same_bytes(
    straight: Ran,
    dataset: DataSet,
    parent: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = {"checkpoint": parent, "teacher.0": parent}
    config = {**PRUNE, **ITERATIVE}
    fit, calls = stage.fit, []

    def killed(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*given)

    monkeypatch.setattr(stage, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stage(config, inputs, dataset, tmp_path / "killed")
    resumed = tmp_path / "resumed"
    (tmp_path / "killed" / "out").rename(tmp_path / "old")
    (tmp_path / "killed").rename(resumed)
    monkeypatch.setattr(Path, "mkdir", _existing_is_fine(Path.mkdir))
    assert run_stage(config, inputs, dataset, resumed).hashes() == straight.hashes()


def _existing_is_fine(mkdir: Any) -> Any:
    return lambda self, *a, **k: mkdir(self, parents=True, exist_ok=True)


class Clock:
    """In the place of ``ParentTimer``: a net takes what its MACs say, and a start-up time."""

    overhead = 0.2
    made = 0

    def __init__(self, parent: nn.Module, imgsz: int, *_: Any) -> None:
        self.parent, self.imgsz = parent, imgsz

    def cost(self, tables: Path) -> Cost:
        del tables
        return macs_cost(self.parent, self.imgsz)

    def time(self, child: nn.Module, precise: bool = False) -> Any:
        del precise
        Clock.made += 1
        macs = count_macs(child, self.imgsz) / count_macs(self.parent, self.imgsz)
        share = self.overhead + (1 - self.overhead) * macs
        metrics = {"speedup": 1 / share}
        return type("Timing", (), {"share": share, "metrics": lambda self: metrics})()


def test_a_time_target_is_measured_and_corrected(
    prune: Any, parent: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "ParentTimer", Clock)
    metrics = prune(target={"latency": 0.6}).metrics
    # the table alone would have cut to .6 of the MACs, which take .68 of the time
    assert metrics["macs_kept"] < 0.55
    assert metrics["target"]["kept"] == pytest.approx(0.6, rel=0.05)
    assert metrics["timing"]["speedup"] == pytest.approx(1 / metrics["target"]["kept"])


def test_time_is_measured_for_the_gate(prune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "ParentTimer", Clock)
    assert "timing" in prune(accept={"never_slower": True}).metrics


def test_measured_sensitivity_spares_a_layer(prune: Any, tmp_path: Path) -> None:
    plain = prune().metrics["channels"]
    layer = "model.8.cv2.conv"
    assert plain[layer][1] < plain[layer][0]
    rows = [
        {"roots": [name], "layer": name, "width": before, "cut": 4, "map50_95": 0.1, "drop": drop}
        for name, (before, _), drop in (
            (n, plain[n], 1e3 if n == layer else 0.0) for n in (layer, "model.7.conv")
        )
    ]
    file = tmp_path / "sensitivity.json"
    file.write_text(json.dumps({"version": 1, "dense": 0.1, "settings": {}, "rows": rows}))
    weighed = prune("weighed", {"sensitivity": artifact(file)}).metrics["channels"]
    assert weighed[layer][1] >= plain[layer][1]
    assert weighed != plain


def test_the_total_of_the_parent_is_what_the_share_is_of(parent: Artifact) -> None:
    model = load_checkpoint(parent.path)
    assert total_of(macs_cost(model, IMGSZ), model) == count_macs(model, IMGSZ)
