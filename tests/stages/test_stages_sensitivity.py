"""The stage ``sensitivity``: measured on train images, resumable, read by a prune stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_nets import IMGSZ
from stage_chain import artifact
from torch import nn

from compress.data.dataset import DataSet, load_dataset
from compress.models.checkpoint import save_checkpoint
from compress.models.evaluate import Accuracy
from compress.pipeline.contract import Artifact, Context
from compress.prune.sensitivity import weights_from
from compress.recipe.schema import SensitivityStage
from compress.stages import sensitivity
from compress.stages.sensitivity import run

CONFIG = SensitivityStage(stage="sensitivity", images=4, align=4)


class Measured:
    """Takes the place of ``evaluate``: mAP falls with every cut, as a known function of it."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.params: list[int] = []
        self.data: set[Path] = set()

    def __call__(self, model: nn.Module, data: Path, imgsz: int, device: str) -> Accuracy:
        assert imgsz == IMGSZ
        assert device == "cpu"
        if len(self.params) == self.stop_at:
            raise KeyboardInterrupt
        self.data.add(data)
        self.params.append(sum(p.numel() for p in model.parameters()))
        return Accuracy(1.0, self.params[-1] / 1e6)


@pytest.fixture
def inputs(net: nn.Module, tmp_path: Path) -> dict[str, Artifact]:
    save_checkpoint(net, tmp_path / "model.pt")
    return {"checkpoint": artifact(tmp_path / "model.pt")}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measured]:
    def replace(stop_at: int | None = None) -> Measured:
        stand_in = Measured(stop_at)
        monkeypatch.setattr(sensitivity, "evaluate", stand_in)
        return stand_in

    return replace


def test_rows_say_what_each_layer_costs(
    inputs: dict[str, Artifact],
    make_context: Callable[[str], Context],
    measured: Callable[..., Measured],
    dataset: DataSet,
) -> None:
    stand_in = measured()
    context = make_context("sensitivity")
    result = run(CONFIG, inputs, context)
    content = json.loads((context.out / result.files["sensitivity"]).read_text())
    dense, *cut = stand_in.params
    assert content["dense"] == dense / 1e6
    assert [row["map50_95"] for row in content["rows"]] == [count / 1e6 for count in cut]
    assert all(row["drop"] > 0 for row in content["rows"])
    plotted = result.metrics["sensitivity"]
    assert plotted["dense"] == content["dense"]
    assert plotted["rows"] == [
        {key: row[key] for key in ("layer", "drop", "map50_95")} for row in content["rows"]
    ]
    weights = weights_from(content)
    assert weights.keys() == {root for row in content["rows"] for root in row["roots"]}
    assert any("4 images of the train split" in note for note in result.metrics["notes"])
    (data,) = stand_in.data
    images = load_dataset(data).splits["val"]
    assert len(images) == 4
    assert set(images) <= set(dataset.splits["train"])  # val must not plan a pruning


def test_a_killed_run_goes_on_behind_its_last_row(
    inputs: dict[str, Artifact],
    make_context: Callable[[str], Context],
    measured: Callable[..., Measured],
) -> None:
    whole, context = measured(), make_context("straight")
    expected = (context.out / run(CONFIG, inputs, context).files["sensitivity"]).read_bytes()
    context = make_context("killed")
    measured(stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, inputs, context)
    rest = measured()
    result = run(CONFIG, inputs, context)
    assert (context.out / result.files["sensitivity"]).read_bytes() == expected
    assert len(rest.params) == len(whole.params) - 5


def test_it_runs_on_the_real_map(
    inputs: dict[str, Artifact],
    make_context: Callable[[str], Context],
) -> None:
    """All but one layer ignored: the rest is timed elsewhere."""
    config = CONFIG.model_copy(update={"ignore": ["model.[1-9]*", "model.*.m.*"]})
    result = run(config, inputs, make_context("real"))
    rows = result.metrics["sensitivity"]["rows"]
    assert [row["layer"] for row in rows] == ["model.0"]
    assert all(0 <= row["map50_95"] <= 1 for row in rows)
