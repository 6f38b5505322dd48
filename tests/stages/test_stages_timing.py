"""A child against its parent: what is told of it, and who is blamed when it is slower."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import pytest
from small_nets import IMGSZ, NAMES, write_net_yaml
from torch import nn

import compress.stages.timing
from bench.conv_times.table import ConvShape, load_table, measured_table
from bench.loop import Minimum
from bench.profile.layer_times import Slower
from compress.models.build import build_model
from compress.models.tasks import TASKS
from compress.progress import ConsoleProgress
from compress.prune.cost import conv_channels
from compress.prune.latency import exported_convs
from compress.stages.timing import ParentTimer, Timing

QUIET = ConsoleProgress(quiet=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress.stages.timing, "_SECONDS", (0.3,))
    monkeypatch.setattr(compress.stages.timing, "_PROFILE", Minimum(0.1, 5))


@pytest.fixture
def wide(wide_yaml: Path) -> nn.Module:
    return build_model(wide_yaml, NAMES, 0).eval()


def timing(speedup: float, low: float, high: float) -> Timing:
    return Timing(10.0, 10.0 / speedup, speedup, (low, high), threads=1)


def test_slower_is_what_noise_cannot_explain() -> None:
    assert timing(0.9, 0.85, 0.95).slower
    assert not timing(0.9, 0.8, 1.05).slower
    assert not timing(1.2, 1.1, 1.3).slower
    assert timing(2.0, 1.9, 2.1).share == 0.5


@pytest.mark.parametrize(
    ("precise", "results"),
    [
        (False, [timing(1.0, 0.5, 1.5), timing(1.5, 1.2, 1.8)]),
        (True, [timing(1.0, 0.5, 1.5), timing(1.5, 1.2, 1.8), timing(1.6, 1.59, 1.61)]),
        (False, [timing(1.0, 0.99, 1.01)]),
    ],
)
def test_measuring_goes_on_until_it_is_sure(
    net: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precise: bool,
    results: list[Timing],
) -> None:
    asked: list[float] = []

    def measured(self: ParentTimer, files: list[Path], seconds: float) -> Timing:
        asked.append(seconds)
        return results[len(asked) - 1]

    monkeypatch.setattr(ParentTimer, "_measured", measured)
    monkeypatch.setattr(ParentTimer, "_export", lambda self, model, name: tmp_path / name)
    timer = ParentTimer(net, IMGSZ, 1, tmp_path, 0, QUIET)
    assert timer.time(net, precise) is results[-1]
    assert asked == sorted(asked)
    assert len(asked) == len(results)


def test_a_slower_child_is_told_from_a_faster_one(
    net: nn.Module, tmp_path: Path, quick: None
) -> None:
    large = build_model(write_net_yaml(tmp_path / "large.yaml", width=0.25), NAMES, 0).eval()
    slower = ParentTimer(net, IMGSZ, 1, tmp_path / "a", 0, QUIET).time(large)
    assert slower.slower
    assert slower.speedup < 1
    assert slower.blame
    modules = dict(large.named_modules())
    increases = [entry.ms - entry.base_ms for entry in slower.blame]
    assert increases == sorted(increases, reverse=True)
    assert min(increases) > 0
    assert any(entry.layer in modules for entry in slower.blame)
    faster = ParentTimer(large, IMGSZ, 1, tmp_path / "b", 0, QUIET).time(net)
    assert not faster.slower
    assert faster.speedup > 1
    assert not faster.blame
    low, high = faster.speedup_ci
    assert low <= faster.speedup <= high
    assert faster.parent_ms / faster.ms == pytest.approx(faster.speedup)


def test_metrics_are_plain_values() -> None:
    blamed = replace(timing(0.5, 0.4, 0.6), blame=(Slower("model.2", 1.0, 3.0),))
    metrics = blamed.metrics()
    assert json.loads(json.dumps(metrics)) == metrics
    assert metrics == {
        "parent_ms": 10.0,
        "ms": 20.0,
        "speedup": 0.5,
        "speedup_ci": [0.4, 0.6],
        "runtime": "onnxruntime",
        "threads": 1,
        "blame": [{"layer": "model.2", "parent_ms": 1.0, "ms": 3.0}],
    }


def test_the_cost_of_a_model_is_its_layers_and_a_rest(
    wide: nn.Module, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_table = partial(measured_table, minimum=Minimum(0.1, 5))
    monkeypatch.setattr(compress.stages.timing, "measured_table", quick_table)
    timer = ParentTimer(wide, IMGSZ, 1, tmp_path, 0, QUIET)
    cost = timer.cost(tmp_path / "tables")
    shapes = {name: conv.shape for name, conv in exported_convs(wide, IMGSZ).items()}
    layers = {name: cost.of(name, shape.inputs, shape.outputs) for name, shape in shapes.items()}
    assert min(layers.values()) > 0
    assert 0.05 < cost.fixed / (cost.fixed + sum(layers.values())) < 0.95
    assert load_table(tmp_path / "tables") is not None


def test_the_rest_is_what_no_convolution_of_the_exported_file_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = TASKS["detect"].model("yolov10n.yaml", verbose=False).eval()
    timer = ParentTimer(net, IMGSZ, 1, tmp_path, 0, QUIET)
    nodes = onnx.load(str(tmp_path / "parent.onnx")).graph.node
    times = {node.name: 3.0 if node.op_type == "Conv" else 0.0 for node in nodes}
    shares = iter([times, times | {"/model.23/Rest": sum(times.values())}])

    class Even:
        def ms(self, shape: ConvShape) -> float:
            return 1.0

    monkeypatch.setattr(ParentTimer, "_operators", lambda *_: [next(shares)])
    monkeypatch.setattr(compress.stages.timing, "measured_table", lambda *_: Even())
    for rest in (0.0, 0.5):
        cost = timer.cost(tmp_path)
        total = sum(cost.of(name, 1, 1) for name in conv_channels(net))
        assert cost.fixed / (cost.fixed + total) == pytest.approx(rest)
