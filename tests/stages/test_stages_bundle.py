"""The bundle stage and ``compress bundle``: which graph goes in, and that what comes out runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_nets import Silent, settled_net
from stage_chain import artifact, run_stage, sha256
from torch import Tensor
from typer.testing import CliRunner

from compress.cli import app
from compress.data.dataset import DataSet
from compress.errors import CompressError
from compress.models.checkpoint import save_checkpoint
from compress.pipeline.cache import Entry, StageCache
from compress.pipeline.contract import Artifact, StageResult
from compress.pipeline.record import Memory
from compress.stages.bundle import chosen_graph
from deploy.detector import Detector
from deploy.images import read_image
from deploy.manifest import read_bundle


@dataclass(frozen=True)
class Exports:
    """A float graph, the INT8 graph of it for ONNX Runtime, and its ranges."""

    folder: Path
    graphs: dict[str, Path]
    ranges: Path

    def inputs(self) -> dict[str, Artifact]:
        graphs = {f"graph.{name}": artifact(path) for name, path in self.graphs.items()}
        return {**graphs, "ranges": artifact(self.ranges)}


@pytest.fixture(scope="module")
def exports(
    net_yaml: Path, images: Tensor, dataset: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> Exports:
    folder = tmp_path_factory.mktemp("exports")
    model = settled_net(net_yaml, images)
    for branch in [*model.model[-1].cv2, *model.model[-1].cv3]:
        branch[-1].weight.data *= 0.05  # far from chaotic: INT8 stays close
    save_checkpoint(model, folder / "net.pt")
    ptq = {"stage": "ptq", "calibration": {"images": 8}}
    net = {"checkpoint": artifact(folder / "net.pt")}
    ranges = run_stage(ptq, net, dataset, folder / "ptq").files["ranges"]
    config = {"stage": "export", "parity_images": 2}
    inputs = {"checkpoint.ptq": net["checkpoint"], "ranges": artifact(ranges)}
    return Exports(folder, run_stage(config, inputs, dataset, folder / "export").files, ranges)


def test_the_int8_graph_of_the_target_is_bundled_and_runs(
    exports: Exports, dataset: DataSet, tmp_path: Path
) -> None:
    config = {"stage": "bundle", "score": 0.4, "iou": 0.5, "max_boxes": 7}
    ran = run_stage(config, exports.inputs(), dataset, tmp_path)
    folder = ran.files["bundle"].parent
    bundle = read_bundle(folder)
    assert sha256(bundle.model) == sha256(exports.graphs["int8-onnxruntime"])
    assert sha256(folder / "ranges.json") == sha256(exports.ranges)
    assert bundle.labels == tuple(dataset.names.values())
    after = bundle.postprocessing
    assert (after.score, after.iou, after.max_boxes) == (0.4, 0.5, 7)
    found = Detector(bundle).detect(read_image(dataset.splits["val"][0]))
    assert 0 < len(found) <= 7
    on_disk = {path for path in ran.out.rglob("*") if path.is_file()}
    assert set(ran.files.values()) == on_disk  # the cache keeps what is named, no more
    assert "int8-onnxruntime" in ran.metrics["notes"][0]


def test_a_chain_that_was_not_quantized_is_bundled_in_float(
    exports: Exports, dataset: DataSet, tmp_path: Path
) -> None:
    config = {"stage": "bundle", "target": "tensorrt"}
    inputs = {k: a for k, a in exports.inputs().items() if "int8" not in k and k != "ranges"}
    ran = run_stage(config, inputs, dataset, tmp_path)
    bundle = read_bundle(ran.files["bundle"].parent)
    assert sha256(bundle.model) == sha256(exports.graphs["ptq"])
    assert bundle.target == "tensorrt"
    assert not (bundle.folder / "ranges.json").exists()


def test_the_target_decides_which_graph_it_is() -> None:
    names = ["base", "prune", "int8-onnxruntime", "int8-tensorrt"]
    assert chosen_graph(names, "tensorrt") == "int8-tensorrt"
    assert chosen_graph(names[:2], "openvino") == "prune"
    with pytest.raises(CompressError, match="no INT8 file for openvino, but int8-onnxruntime"):
        chosen_graph(names, "openvino")


def test_files_in_folders_are_stored_published_and_taken_back(
    exports: Exports, dataset: DataSet, tmp_path: Path
) -> None:
    ran = run_stage({"stage": "bundle"}, exports.inputs(), dataset, tmp_path / "stage")
    cache = StageCache(tmp_path / "cache", Silent())
    names = {name: str(path.relative_to(ran.out)) for name, path in ran.files.items()}
    (tmp_path / "cache" / "stages").mkdir(parents=True)
    entry = cache.store(ran.out, "0" * 64, StageResult(names), {"stage": "bundle"}, 1.0)
    again = cache.load("bundle", "0" * 64)
    assert read_bundle(again.folder / "bundle").labels
    run = tmp_path / "run"
    for path in names.values():
        (run / "05-bundle" / path).parent.mkdir(parents=True, exist_ok=True)
        (run / "05-bundle" / path).write_text("")
    _forget(run, entry)
    assert not (run / "05-bundle").exists()
    assert run.exists()


def _forget(run: Path, entry: Entry) -> None:
    """Note the published files of a stage, then that the recipe no longer has it."""
    memory = Memory(run)
    memory.note(SimpleNamespace(name="bundle", folder="05-bundle"), entry)
    Memory(run).forget_all_but([])


def test_a_finished_run_is_bundled_by_command(exports: Exports, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    files = {**exports.graphs, "ranges": exports.ranges}
    for path in files.values():
        (run / path.name).write_bytes(path.read_bytes())
    record = {name: {"path": path.name, "sha256": sha256(path)} for name, path in files.items()}
    ranges = {"stage": "ptq", "files": {"ranges": record.pop("ranges")}}
    stages = [ranges, {"stage": "export", "files": record}]
    (run / "run.json").write_text(json.dumps({"stages": stages}))
    done = CliRunner().invoke(app, ["bundle", str(run), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["graph"] == "int8-onnxruntime"
    assert (read_bundle(run / "bundle").folder / "ranges.json").exists()
    again = CliRunner().invoke(app, ["bundle", str(run)])
    assert again.exit_code == 2
    assert "--out" in again.stderr or "another folder" in again.stderr
    (run / "int8-onnxruntime.onnx").write_bytes(b"changed")
    changed = CliRunner().invoke(app, ["bundle", str(run), "--out", str(tmp_path / "new")])
    assert changed.exit_code == 2
    assert "int8-onnxruntime.onnx" in changed.stderr


@pytest.mark.parametrize("content", [None, "{}", '{"stages": []}'])
def test_what_is_no_run_with_graphs_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    done = CliRunner().invoke(app, ["bundle", str(tmp_path)])
    assert done.exit_code == 2
    assert "export" in done.stderr
