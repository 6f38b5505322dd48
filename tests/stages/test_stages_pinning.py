"""How many of the worst layers stay float: as few as the gate on mAP allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_nets import IMGSZ
from stage_chain import artifact
from torch import nn

from compress.errors import CompressError
from compress.models.checkpoint import save_checkpoint
from compress.models.evaluate import Accuracy
from compress.pipeline.contract import Context
from compress.pipeline.files import write_json
from compress.quantize.sensitivity import LayerNoise, report
from compress.recipe.schema import PtqStage
from compress.stages import pinning
from compress.stages.pinning import pinned
from compress.stages.ptq import run
from compress.stages.quantization import RANGES_FILE
from export.ranges import load_ranges

LAYERS = [f"layer{number}" for number in range(20)]
GATE = {"map50_95": {"max_drop": 0.01}}


def config(**keys: Any) -> PtqStage:
    return PtqStage.model_validate({"stage": "ptq", **keys})


def sensitivity(layers: Sequence[str], dense: float = 0.6) -> dict[str, Any]:
    """The first layer is the worst."""
    rows = [LayerNoise(layer, 10.0 + n, dense, 0.0) for n, layer in enumerate(layers)]
    return report(dense, rows, {})


class Calibrator:
    """Takes the place of calibration and mAP: the gate holds from ``needed`` float layers on."""

    def __init__(self, needed: int | None = None) -> None:
        self.needed = needed
        self.tried: list[list[str]] = []
        self.parent = nn.Identity()

    def __call__(self, layers: Sequence[str]) -> Any:
        self.tried.append(list(layers))
        return SimpleNamespace(model=layers)

    def evaluate(self, model: object, data: Path, imgsz: int, device: str) -> Accuracy:
        assert imgsz == IMGSZ
        if model is self.parent:
            return Accuracy(1.0, 0.6)
        assert isinstance(model, Sequence)
        holds = self.needed is not None and len(model) >= self.needed
        return Accuracy(1.0, 0.595 if holds else 0.5)


@pytest.fixture
def counts(
    make_context: Callable[[str], Context], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list[int], list[str]]]:
    """How many layers were kept float at each try, and the notes."""

    def find(
        stage: PtqStage, needed: int | None = None, content: Any = None
    ) -> tuple[list[int], list[str]]:
        calibrator = Calibrator(needed)
        monkeypatch.setattr(pinning, "evaluate", calibrator.evaluate)
        content = sensitivity(LAYERS) if content is None else content
        context = make_context(f"pinning{needed}")
        simulation, notes = pinned(calibrator.parent, stage, content, context, calibrator)
        assert all(tried == LAYERS[: len(tried)] for tried in calibrator.tried)  # worst first
        assert simulation.model == calibrator.tried[-1]
        return [len(tried) for tried in calibrator.tried], notes

    return find


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (0, [0]),
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (3, [0, 1, 2, 4]),
        (6, [0, 1, 2, 4, 8]),
        (9, [0, 1, 2, 4, 8, 10]),
        (None, [0, 1, 2, 4, 8, 10]),  # the share is reached
    ],
)
def test_twice_as_many_stay_float_until_the_gate_holds(
    counts: Callable[..., Any], needed: int | None, expected: list[int]
) -> None:
    tried, (note,) = counts(config(max_float_share=0.5, accept=GATE), needed)
    assert tried == expected
    drop = "-0.50" if needed is not None else "-10.00"
    assert f"({drop} points of mAP50-95" in note
    assert LAYERS[expected[-1]] not in note.replace(",", " ").split()
    for layer in LAYERS[: expected[-1]]:
        assert layer in note
    assert ("none" in note) == (expected[-1] == 0)


def test_without_a_gate_the_whole_share_stays_float(counts: Callable[..., Any]) -> None:
    tried, (note,) = counts(config(max_float_share=0.25))
    assert tried == [5]
    assert "layer4 (no gate" in note


@pytest.mark.parametrize("gate", [{}, {"accept": GATE}])
def test_without_a_share_none_stays_float(counts: Callable[..., Any], gate: dict[str, Any]) -> None:
    assert counts(config(**gate)) == ([0], [])


def test_without_a_sensitivity_stage_none_stays_float(
    make_context: Callable[[str], Context],
) -> None:
    calibrator = Calibrator()
    stage = config(max_float_share=0.5, accept=GATE)
    pinned(calibrator.parent, stage, None, make_context("alone"), calibrator)
    assert calibrator.tried == [[]]


def test_a_share_of_less_than_a_layer_keeps_none(counts: Callable[..., Any]) -> None:
    tried, (note,) = counts(config(max_float_share=0.04, accept=GATE))
    assert tried == [0]
    assert "none" in note


def test_a_sensitivity_file_of_another_version_is_refused(counts: Callable[..., Any]) -> None:
    content = sensitivity(LAYERS) | {"version": 7}
    with pytest.raises(CompressError, match="version 7"):
        counts(config(max_float_share=0.5), content=content)


def test_a_ptq_stage_keeps_the_worst_layers_of_its_sensitivity_file_float(
    net: nn.Module, tmp_path: Path, make_context: Callable[[str], Context]
) -> None:
    save_checkpoint(net, tmp_path / "model.pt")
    worst = ["model.9.cv1.conv", "model.0.conv", "model.4.cv2.conv", "model.1.conv"]
    write_json(tmp_path / "int8_sensitivity.json", sensitivity(worst))
    inputs = {
        "checkpoint": artifact(tmp_path / "model.pt"),
        "int8_sensitivity": artifact(tmp_path / "int8_sensitivity.json"),
    }
    stage = config(max_float_share=0.5, calibration={"images": 2, "method": "minmax"})
    context = make_context("ptq")
    result = run(stage, inputs, context)
    convs = load_ranges(context.out / RANGES_FILE).convs
    assert not set(worst[:2]) & set(convs)
    assert set(worst[2:]) <= set(convs)
    assert len(convs) == 51
    assert any("model.9.cv1.conv, model.0.conv (" in note for note in result.metrics["notes"])
