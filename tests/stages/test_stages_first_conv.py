"""The first convolution: float, INT8, or whichever a measurement says, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from small_nets import IMGSZ
from torch import nn

import compress.stages.placement_choice as choice
from bench.settings import Settings
from compress.models.activations import silu_blocks, with_activation
from compress.models.build import build_model
from compress.pipeline.contract import Context
from compress.quantize.prepare import float_graph
from compress.recipe.sections import Quantization
from compress.stages.placement_choice import first_convs, float_layers_of

FIRST = "model.0.conv"


def config(**values: Any) -> Quantization:
    return Quantization.model_validate(values)


@pytest.fixture
def context(make_context: Callable[[str], Context]) -> Context:
    return make_context("stage")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Stand-in for the clock: (speed-up of float over INT8, low, high) of each measurement."""

    def set_times(*results: tuple[float, float, float]) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def bench(files: list[Path], settings: Settings, **more: Any) -> dict[str, Any]:
            speedup, low, high = results[len(asked)]
            convs = [
                sum(node.op_type == "QuantizeLinear" for node in onnx.load(str(file)).graph.node)
                for file in files
            ]
            asked.append({**vars(settings), **more, "rounded": convs})
            rows = [{"latency_ms": {"p50": ms}} for ms in (10.0 * speedup, 10.0)]
            rows[1] |= {"speedup": speedup, "speedup_ci": [low, high]}  # type: ignore[dict-item]
            return {"rows": rows}

        monkeypatch.setattr(choice, "bench_files", bench)
        return asked

    return set_times


def test_the_recipe_decides_without_measuring(
    net: nn.Module, context: Context, timed: Callable[..., Any]
) -> None:
    timed()
    assert float_layers_of(net, config(float_layers=["model.2"]), context) == (["model.2"], [])
    kept = config(first_conv="float", float_layers=["model.2"])
    assert float_layers_of(net, kept, context) == (["model.2", FIRST], [])
    named = config(first_conv="auto", float_layers=["model.0"])
    assert float_layers_of(net, named, context) == (["model.0"], [])


@pytest.mark.parametrize(
    ("speedup", "low", "high", "stays"),
    [(1.2, 1.1, 1.3, True), (0.8, 0.7, 0.9, False), (1.0, 0.995, 1.005, True)],
)
def test_float_where_that_is_not_slower(
    net: nn.Module,
    context: Context,
    timed: Callable[..., list[dict[str, Any]]],
    speedup: float,
    low: float,
    high: float,
    stays: bool,
) -> None:
    asked = timed((speedup, low, high))
    layers, notes = float_layers_of(net, config(first_conv="auto"), context)
    assert layers == ([FIRST] if stays else [])
    assert len(asked) == 1
    assert asked[0]["runtimes"] == ["onnxruntime"] * 2
    assert asked[0]["rounded"][0] > asked[0]["rounded"][1]
    (note,) = notes
    for word in (FIRST, "10.00 ms", f"{10 * speedup:.2f} ms", f"is {'float' if stays else 'INT8'}"):
        assert word in note


def test_it_goes_on_until_it_is_sure_and_measures_once(
    net: nn.Module, context: Context, timed: Callable[..., list[dict[str, Any]]]
) -> None:
    asked = timed((1.0, 0.8, 1.2), (1.1, 0.9, 1.3), (1.1, 1.05, 1.15))
    first = float_layers_of(net, config(first_conv="auto"), context)
    seconds = [settings["min_seconds"] for settings in asked]
    assert len(seconds) == 3
    assert seconds == sorted(seconds)
    for parameter in net.parameters():  # other weights take the same time
        parameter.data.mul_(0.9)
    assert float_layers_of(net, config(first_conv="auto"), context) == first
    assert len(asked) == 3


def test_another_net_is_measured_anew(
    net: nn.Module, context: Context, timed: Callable[..., list[dict[str, Any]]]
) -> None:
    asked = timed((1.2, 1.1, 1.3), (0.8, 0.7, 0.9))
    float_layers_of(net, config(first_conv="auto"), context)
    swapped = with_activation(net, silu_blocks(net), "relu")
    assert float_layers_of(swapped, config(first_conv="auto"), context)[0] == []
    assert len(asked) == 2


def test_the_first_target_that_runs_here_is_measured(
    net: nn.Module,
    context: Context,
    timed: Callable[..., list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = timed((0.8, 0.7, 0.9), (0.8, 0.7, 0.9))
    monkeypatch.setattr(choice, "find_spec", lambda name: name)
    float_layers_of(net, config(first_conv="auto", target=["tensorrt", "openvino"]), context)
    assert asked[0]["runtimes"] == ["openvino"] * 2
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    layers, (note,) = float_layers_of(
        net, config(first_conv="auto", target=["tensorrt", "openvino"]), context
    )
    assert layers == [FIRST]
    assert "no runtime of the recipe runs here" in note
    assert len(asked) == 1


def test_real_files_are_really_measured(
    net: nn.Module, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_SECONDS", (0.2,))
    layers, (note,) = float_layers_of(net, config(first_conv="auto"), context)
    assert layers in ([], [FIRST])
    assert FIRST in note


def test_it_is_found_by_what_it_reads_not_by_its_name(net_yaml: Path, tmp_path: Path) -> None:
    text = net_yaml.read_text()
    # one more layer in front, and every reference behind it one further on
    padded = text.replace("backbone:\n", "backbone:\n  - [-1, 1, nn.ZeroPad2d, [[0, 64, 0, 64]]]\n")
    for old, new in (("6]", "7]"), ("4]", "5]"), ("12]", "13]"), ("9]", "10]")):
        padded = padded.replace(f"[[-1, {old},", f"[[-1, {new},")
    padded = padded.replace("[[15, 18, 21]", "[[16, 19, 22]")
    (tmp_path / "padded.yaml").write_text(padded)
    model = build_model(tmp_path / "padded.yaml", {0: "a", 1: "b", 2: "c"}, 0).eval()
    assert first_convs(float_graph(model, IMGSZ)) == ["model.1.conv"]
