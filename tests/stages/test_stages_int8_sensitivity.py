"""The stage ``int8_sensitivity``: measured on train images, resumable, with times of its layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_nets import IMGSZ
from stage_chain import artifact
from torch import nn

from bench.loop import Minimum
from compress.data.dataset import DataSet, load_dataset
from compress.models.checkpoint import save_checkpoint
from compress.models.evaluate import Accuracy
from compress.pipeline.contract import Artifact, Context
from compress.quantize.sensitivity import VERSION
from compress.recipe.schema import Int8SensitivityStage
from compress.stages import int8_sensitivity
from compress.stages.int8_sensitivity import run

FLOAT = ["model.[3-9]*", "model.1[0-9]*", "model.2[0-9]*"]
LAYERS = {"model.0.conv", "model.1.conv"} | {
    f"model.2.{name}.conv" for name in ("cv1", "cv2", "m.0.cv1", "m.0.cv2")
}


def config(*targets: str, **keys: Any) -> Int8SensitivityStage:
    return Int8SensitivityStage.model_validate(
        {
            "stage": "int8_sensitivity",
            "images": 4,
            "target": list(targets),
            "float_layers": FLOAT,
            "calibration": {"images": 2, "method": "minmax"},
            **keys,
        }
    )


class Measured:
    """Takes the place of ``evaluate``: a known function of how much of a model is rounded."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.found: list[float] = []
        self.data: set[Path] = set()

    def __call__(self, model: nn.Module, data: Path, imgsz: int, device: str) -> Accuracy:
        assert imgsz == IMGSZ
        assert device == "cpu"
        if len(self.found) == self.stop_at:
            raise KeyboardInterrupt
        self.data.add(data)
        rounded = list(model.quantizers.modules()) if hasattr(model, "quantizers") else []
        self.found.append(0.9 - len(rounded) / 1e3)
        return Accuracy(1.0, self.found[-1])


@pytest.fixture
def inputs(net: nn.Module, tmp_path: Path) -> dict[str, Artifact]:
    save_checkpoint(net, tmp_path / "model.pt")
    return {"checkpoint": artifact(tmp_path / "model.pt")}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measured]:
    def replace(stop_at: int | None = None) -> Measured:
        stand_in = Measured(stop_at)
        monkeypatch.setattr(int8_sensitivity, "evaluate", stand_in)
        return stand_in

    return replace


def test_rows_say_what_each_layer_costs_and_loses_in_float(
    inputs: dict[str, Artifact],
    make_context: Callable[[str], Context],
    measured: Callable[..., Measured],
    dataset: DataSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(int8_sensitivity, "_PROFILE", Minimum(0.0, 3))
    stand_in, context = measured(), make_context("int8_sensitivity")
    result = run(config("onnxruntime"), inputs, context)
    content = json.loads((context.out / result.files["int8_sensitivity"]).read_text())
    rows = content["rows"]
    dense, *alone = stand_in.found
    assert content["version"] == VERSION
    assert content["targets"] == ["onnxruntime"]
    assert content["dense"] == dense == 0.9
    assert {row["layer"] for row in rows} == LAYERS
    assert sorted(row["map50_95"] for row in rows) == sorted(alone)
    assert all(row["drop"] == pytest.approx(dense - row["map50_95"]) for row in rows)
    assert all(row["drop"] > 0 for row in rows)
    assert all(0 < row["sqnr"] < 99 for row in rows)
    assert all(isinstance(row["lost_ms"], float) for row in rows)
    assert result.metrics["int8_sensitivity"] == {"dense": dense, "rows": rows}
    notes = result.metrics["notes"]
    assert any("4 images of the train split" in note for note in notes)
    assert any("are noise" in note for note in notes)
    assert not any("no time" in note for note in notes)
    (data,) = stand_in.data
    images = load_dataset(data).splits["val"]
    assert len(images) == 4
    assert set(images) <= set(dataset.splits["train"])  # val must not choose layers


@pytest.mark.slow
def test_a_killed_run_goes_on_behind_its_last_row(
    inputs: dict[str, Artifact],
    make_context: Callable[[str], Context],
    measured: Callable[..., Measured],
) -> None:
    stage = config("tensorrt")  # nothing is timed
    whole, context = measured(), make_context("straight")
    expected = (context.out / run(stage, inputs, context).files["int8_sensitivity"]).read_bytes()
    context = make_context("killed")
    measured(stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        run(stage, inputs, context)
    rest = measured()
    result = run(stage, inputs, context)
    assert (context.out / result.files["int8_sensitivity"]).read_bytes() == expected
    assert len(whole.found) == len(LAYERS) + 1
    assert rest.found == whole.found[4:]


def test_what_cannot_be_known_is_told(
    inputs: dict[str, Artifact],
    make_context: Callable[[str], Context],
    measured: Callable[..., Measured],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured()
    monkeypatch.setattr(int8_sensitivity, "evaluate", lambda *given, **named: Accuracy(0.0, 0.0))
    result = run(config("tensorrt", float_layers=[*FLOAT, "model.2.*"]), inputs, make_context("x"))
    rows = result.metrics["int8_sensitivity"]["rows"]
    assert {row["layer"] for row in rows} == {"model.0.conv", "model.1.conv"}
    assert [row["lost_ms"] for row in rows] == [None, None]
    notes = " ".join(result.metrics["notes"])
    assert "onnxruntime is not among the targets" in notes
    assert "finds nothing" in notes
