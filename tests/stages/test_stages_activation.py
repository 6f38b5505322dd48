"""The stage that swaps SiLU: everywhere, by pattern, or where measured time says that it pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from slow import slow
from small_nets import settled_net
from stage_chain import ALIGN, TRAIN, Ran, artifact, run_stage
from torch import Tensor, nn

import compress.stages.activation as stage
import compress.stages.timing
from bench.loop import Minimum
from compress.data.dataset import DataSet
from compress.errors import CompressError
from compress.models.activations import activations_of, silu_blocks, with_activation
from compress.models.checkpoint import load_checkpoint, save_checkpoint
from compress.pipeline.contract import Artifact
from compress.stages.activation import paying

STAGE = {"stage": "activation", "bn_images": 0}


@pytest.fixture(scope="module")
def parent(net_yaml: Path, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    file = tmp_path_factory.mktemp("parent") / "model.pt"
    save_checkpoint(settled_net(net_yaml, images), file)
    return artifact(file)


@pytest.fixture
def swap(parent: Artifact, dataset: DataSet, tmp_path: Path) -> Any:
    def run(folder: str = "activation", **config: Any) -> Ran:
        inputs = {"checkpoint": parent}
        return run_stage({**STAGE, **config}, inputs, dataset, tmp_path / folder)

    return run


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand-in for the profiler: what the first graph's operators take by layer, others faster."""

    def set_times(faster: set[str], whole: float = 2.0) -> None:
        def profile(files: dict[str, Path], *_: Any) -> dict[str, dict[str, float]]:
            base = dict.fromkeys(activations_of(load_checkpoint(set_times.file)), 1.0)
            swapped = {name: 0.5 if name in faster else 1.0 for name in base}
            return {"before": base, "again": base, "swapped": swapped}

        class Timer:
            def __init__(self, *_: Any) -> None: ...

            def time(self, child: nn.Module) -> compress.stages.timing.Timing:
                interval = (whole * 0.9, whole * 1.1)
                return compress.stages.timing.Timing(10.0, 10.0 / whole, whole, interval, 1)

        monkeypatch.setattr(stage, "_layer_times", profile)
        monkeypatch.setattr(stage, "ParentTimer", Timer)

    return set_times


def model_of(ran: Ran) -> nn.Module:
    return load_checkpoint(ran.files["checkpoint"])


def swapped_in(model: nn.Module, to: str = "relu") -> set[str]:
    return {name for name, kind in activations_of(model).items() if kind == to}


def test_everywhere_weights_stay(swap: Any, parent: Artifact) -> None:
    before = load_checkpoint(parent.path)
    ran = swap(to="hardswish")
    after = model_of(ran)
    assert swapped_in(after, "hardswish") == set(silu_blocks(before))
    state, was = after.state_dict(), before.state_dict()
    assert all(torch.equal(state[key], was[key]) for key in was)
    count = len(silu_blocks(before))
    assert ran.metrics["activation"]["to"] == "hardswish"
    assert len(ran.metrics["activation"]["swapped"]) == count
    assert f"{count} of {count} SiLUs became hardswish" in ran.metrics["notes"]
    assert "timing" not in ran.metrics
    assert ran.metrics["batchnorm"] == {}


def test_patterns_decide(swap: Any, parent: Artifact) -> None:
    expected = set(silu_blocks(load_checkpoint(parent.path), ["model.2", "model.4"], ["*.m"]))
    ran = swap(layers=["model.2", "model.4"], ignore=["*.m"])
    assert swapped_in(model_of(ran)) == expected
    with pytest.raises(CompressError, match=r"'modle\.2'.*model\.0"):
        swap("wrong", layers=["modle.2"])


def test_statistics_are_taken_anew_only_where_that_is_better(
    swap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def means(ran: Ran) -> Tensor:
        norms = [m for m in model_of(ran).modules() if isinstance(m, nn.BatchNorm2d)]
        return torch.cat([norm.running_mean for norm in norms])

    as_swapped = means(swap("off"))
    for better, found in ((True, 0.3), (False, 0.1)):
        scores = iter([0.2, found])
        monkeypatch.setattr(stage, "_map", lambda *_, scores=scores: next(scores))
        ran = swap(f"{better}", bn_images=16)
        assert torch.equal(means(ran), as_swapped) is not better
        assert ran.metrics["batchnorm"] == {"as_swapped": 0.2, "reestimated": found}
        assert any("0.200" in note and f"{found:.3f}" in note for note in ran.metrics["notes"])


def test_where_it_pays_only_faster_layers_change(swap: Any, times: Any, parent: Artifact) -> None:
    times.file = parent.path
    faster = {"model.0", "model.4.cv1", "model.22.cv3.1.0"}
    times(faster)
    ran = swap(where="pays")
    assert swapped_in(model_of(ran)) == faster
    assert set(ran.metrics["activation"]["swapped"]) == faster
    assert ran.metrics["timing"]["speedup"] == 2.0
    notes = " ".join(ran.metrics["notes"])
    assert "3 of" in notes
    assert "10.00 ms before and 5.00 ms after" in notes
    assert "INT8" in notes


@pytest.mark.parametrize("reason", [*slow("no layer is faster"), "the whole net is slower"])
def test_where_it_never_pays_the_model_passes_unchanged(
    reason: str, swap: Any, times: Any, parent: Artifact
) -> None:
    times.file = parent.path
    times(set()) if reason == "no layer is faster" else times({"model.0"}, whole=0.8)
    ran = swap(where="pays", bn_images=16)
    before, after = load_checkpoint(parent.path), model_of(ran)
    assert activations_of(after) == activations_of(before)
    state, was = after.state_dict(), before.state_dict()
    assert all(torch.equal(state[key], was[key]) for key in was)
    assert any("does not pay" in note for note in ran.metrics["notes"])


def test_a_gain_within_noise_is_none() -> None:
    before = {"sure": 1.0, "noisy": 1.0, "slower": 1.0, "gone": 1.0}
    again = {"sure": 1.01, "noisy": 1.3, "slower": 1.0, "gone": 1.0}
    swapped = {"sure": 0.9, "noisy": 0.8, "slower": 1.1}
    assert paying({*before, "unknown"}, before, again, swapped) == {"sure": pytest.approx(0.1)}


@pytest.mark.slow
def test_real_times_name_real_blocks(swap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_PROFILE", Minimum(0.1, 5))
    monkeypatch.setattr(compress.stages.timing, "_SECONDS", (0.2,))
    monkeypatch.setattr(compress.stages.timing, "_PROFILE", Minimum(0.1, 5))
    seen: dict[str, dict[str, float]] = {}

    def all_pay(blocks: set[str], *times: dict[str, float]) -> dict[str, float]:
        seen.update(dict(zip(("before", "again", "swapped"), times, strict=True)))
        return dict.fromkeys(blocks, 0.1)

    monkeypatch.setattr(stage, "paying", all_pay)
    ran = swap(where="pays")
    every = set(silu_blocks(model_of(swap("whole", to="relu6", layers=["model.0"]))))
    for found in seen.values():
        assert every <= found.keys()
        assert all(found[name] > 0 for name in every)
    assert ran.metrics["timing"]["parent_ms"] > 0


@pytest.mark.parametrize("order", ["prune first", *slow("swap first")])
def test_what_comes_behind_it_keeps_it(
    order: str, parent: Artifact, dataset: DataSet, tmp_path: Path
) -> None:
    prune = {"stage": "prune", "target": {"macs": 0.6}, "align": ALIGN, "bn_images": 0}
    prune["accept"] = {"never_slower": False}
    swap = {**STAGE, "layers": ["model.0", "model.4", "model.9", "model.22"]}
    training = [{"stage": "finetune", "train": TRAIN}, {"stage": "qat", "train": TRAIN}]
    stages = [prune, swap] if order == "prune first" else [swap, prune, *training]
    wanted = set(silu_blocks(load_checkpoint(parent.path), swap["layers"]))
    last: dict[str, Artifact] = {"checkpoint": parent}
    for config in stages:
        given = {"checkpoint": last["checkpoint"]}
        ran = run_stage({"name": "", **config}, given, dataset, tmp_path / config["stage"])
        last = {key: ran.artifact(key) for key in ran.files}
        if config is not prune or order == "swap first":
            assert swapped_in(model_of(ran)) == wanted
    if order == "prune first":
        return
    inputs = {"checkpoint.qat": last["checkpoint"], "ranges": last["ranges"]}
    export = run_stage({"stage": "export"}, inputs, dataset, tmp_path / "export")
    assert export.files["int8-onnxruntime"].is_file()


def test_a_net_without_silu_is_refused(parent: Artifact, dataset: DataSet, tmp_path: Path) -> None:
    net = load_checkpoint(parent.path)
    save_checkpoint(with_activation(net, silu_blocks(net), "relu"), tmp_path / "relu.pt")
    inputs = {"checkpoint": artifact(tmp_path / "relu.pt")}
    with pytest.raises(CompressError, match="no block of the model has a SiLU"):
        run_stage(STAGE, inputs, dataset, tmp_path / "again")
