"""From images to boxes: real pre- and post-processing around a net whose boxes are known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bench.end_to_end
from bench.end_to_end import STEPS, measure_end_to_end, prepare
from bench.errors import BenchError
from bench.onnx_metadata import read_onnx_metadata
from bench.run import bench_files
from bench.settings import Settings
from deploy.detector import Detector
from deploy.graph_facts import Thresholds
from deploy.images import read_image
from deploy.manifest import read_bundle
from deploy.pack import write_bundle

# x, y, w, h and two scores: two that overlap, one apart, one that nobody is sure of
CELLS = np.array(
    [
        [16, 16, 10, 10, 0.9, 0.0],
        [17, 16, 10, 10, 0.8, 0.0],
        [8, 24, 6, 6, 0.0, 0.7],
        [24, 8, 6, 6, 0.1, 0.1],
    ],
    np.float32,
).T[None]
METADATA = {"names": "{0: 'cell', 1: 'disc'}", "task": "detect", "stride": "16"}
QUICK = Settings(min_seconds=0)


def save_net(path: Path, metadata: Mapping[str, str] = METADATA, cells: np.ndarray = CELLS) -> Path:
    """Gives the same cells whatever the image is."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["still"]),
        helper.make_node("Add", ["still", "cells"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, list(cells.shape))],
        [
            numpy_helper.from_array(np.float32(0), "nothing"),
            numpy_helper.from_array(cells, "cells"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))
    return path


class Net:
    """A runtime that gives the cells and keeps what it was fed."""

    def __init__(self, cells: np.ndarray = CELLS, batch: int = 1) -> None:
        self.input_shape = (batch, 3, 32, 32)
        self.fed: list[np.ndarray] = []
        self.calls = 0
        self._cells = cells

    def feed(self, values: np.ndarray) -> None:
        self.fed.append(values)

    def infer(self) -> None:
        self.calls += 1

    def outputs(self) -> list[np.ndarray]:
        return [self._cells]


def measured(net: Any, path: Path, images: Path, settings: Settings = QUICK) -> Any:
    pipelines = prepare({"net": net}, {"net": path}, images, settings.seed)
    return measure_end_to_end(pipelines, settings, lambda: False)["net"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, shape in enumerate([(40, 60, 3), (64, 20, 3), (32, 32, 3)]):
        np.save(folder / f"{number}.npy", generator.integers(0, 256, shape, np.uint8))
    return folder


def test_it_finds_what_the_bundle_finds(tmp_path: Path, images: Path) -> None:
    net, path = Net(), save_net(tmp_path / "net.onnx")
    found = measured(net, path, images)
    write_bundle(path, "onnxruntime", tmp_path / "bundle", Thresholds())
    detector = Detector(read_bundle(tmp_path / "bundle"))
    files = sorted(images.iterdir())
    assert [len(detector.detect(read_image(file))) for file in files] == [2, 2, 2]
    assert found["boxes"] == 2
    assert found["images"] == 3
    assert found["latency_ms"]["count"] == 64
    assert list(found["steps_ms"]) == list(STEPS)
    assert all(value > 0 for value in found["steps_ms"].values())
    # three calls to warm up, then all images in turn, as the bundle feeds them
    assert len(net.fed) == 67
    assert all(values.shape == (1, 3, 32, 32) for values in net.fed)
    np.testing.assert_array_equal(net.fed[0], net.fed[3])
    assert (net.fed[0] != net.fed[1]).any()


def test_the_net_sees_what_the_bundle_shows_it(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_net(tmp_path / "net.onnx")
    write_bundle(path, "onnxruntime", tmp_path / "bundle", Thresholds())
    detector = Detector(read_bundle(tmp_path / "bundle"))
    shown: list[np.ndarray] = []
    run = detector._run
    monkeypatch.setattr(detector, "_run", lambda values: shown.append(values) or run(values))
    for file in sorted(images.iterdir()):
        detector.detect(read_image(file))
    net = Net()
    measured(net, path, images)
    for ours, theirs in zip(net.fed, shown, strict=False):
        np.testing.assert_array_equal(ours, theirs)


def test_a_real_runtime_in_a_whole_run(tmp_path: Path, images: Path) -> None:
    path = save_net(tmp_path / "net.onnx")
    settings = Settings(
        min_seconds=0, min_count=11, warmup_seconds=0, energy_seconds=0, images=str(images)
    )
    [row] = bench_files([path], settings)["rows"]
    assert row["end_to_end"]["boxes"] == 2
    assert row["end_to_end"]["latency_ms"]["count"] == 64
    assert row["latency_ms"]["count"] == 11


def test_steps_add_up_to_the_whole(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000_000_000))

    class Clock:
        """A millisecond passes between two looks."""

        perf_counter = staticmethod(lambda: 0.0)
        perf_counter_ns = staticmethod(lambda: next(ticks) * 1_000_000)

    monkeypatch.setattr(bench.end_to_end, "time", Clock)
    path = save_net(tmp_path / "net.onnx")
    found = measured(Net(), path, images)
    assert found["steps_ms"] == dict.fromkeys(STEPS, 1.0)
    assert found["latency_ms"]["p50"] == len(STEPS)


def test_a_stop_leaves_what_was_measured(tmp_path: Path, images: Path) -> None:
    nets = {"a": Net(), "b": Net()}
    path = save_net(tmp_path / "net.onnx")
    pipelines = prepare(nets, {"a": path, "b": path}, images, 0)

    def stopped() -> bool:
        return nets["b"].calls >= 1 + 3 + 2  # a look at the outputs, warm-up, two that count

    found = measure_end_to_end(pipelines, QUICK, stopped)
    assert [found[label]["latency_ms"]["count"] for label in ("a", "b")] == [2, 2]
    assert found["a"]["images"] == 2
    assert measure_end_to_end(pipelines, QUICK, lambda: True) == {}


def test_what_cannot_be_read_is_told_before_anything_is_measured(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_net(tmp_path / "net.onnx", {**METADATA, "head": "raw"})
    monkeypatch.setattr("bench.run.measure", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(BenchError, match="raw maps"):
        bench_files([path], Settings(images=str(images)))


def test_images_are_drawn_by_seed_and_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(40):
        np.save(folder / f"{number:02}.npy", np.full((32, 32, 3), number, np.uint8))
    path = save_net(tmp_path / "net.onnx")

    def seen(seed: int) -> list[int]:
        net = Net()
        found = measured(net, path, folder, Settings(min_seconds=0, seed=seed))
        assert found["images"] == 32
        return sorted({round(float(values[0, 0, 0, 0]) * 255) for values in net.fed})

    assert len(seen(0)) == 32
    assert seen(0) == seen(0) != seen(1)
    monkeypatch.setattr(bench.end_to_end, "_MOST_BYTES", 4 * 32 * 32 * 3)
    assert measured(Net(), path, folder)["images"] == 5


def test_a_bundles_thresholds_count(tmp_path: Path, images: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle(save_net(tmp_path / "net.onnx"), "onnxruntime", bundle, Thresholds(score=0.75))
    found = measured(Net(), bundle / "model.onnx", images)
    assert found["boxes"] == 1
    (bundle / "labels.txt").write_text("changed\n")
    with pytest.raises(BenchError, match=r"labels.txt' was changed"):
        measured(Net(), bundle / "model.onnx", images)


def test_boxes_of_an_end_to_end_head(tmp_path: Path, images: Path) -> None:
    rows = np.array([[[1, 1, 9, 9, 0.9, 0], [2, 2, 9, 9, 0.8, 1], [0] * 6]], np.float32)
    path = save_net(tmp_path / "net.onnx", {**METADATA, "end2end": "True"}, rows)
    found = measured(Net(rows), path, images)
    assert found["boxes"] == 2


def test_an_engine_is_read_as_its_onnx_file(tmp_path: Path, images: Path) -> None:
    engine = tmp_path / "net.engine"
    engine.write_bytes(b"engine")
    with pytest.raises(BenchError, match="Put the ONNX file that it was made of beside it"):
        measured(Net(), engine, images)
    onnx_file = save_net(tmp_path / "source.onnx")
    facts = tmp_path / "net.engine.json"
    facts.write_text(
        json.dumps({"onnx_sha256": hashlib.sha256(onnx_file.read_bytes()).hexdigest()})
    )
    assert measured(Net(), engine, images)["boxes"] == 2
    onnx_file.rename(tmp_path / "net.onnx")
    facts.write_text(json.dumps({"onnx_sha256": "of another file"}))
    with pytest.raises(BenchError, match="nothing says how its outputs are read"):
        measured(Net(), engine, images)
    facts.write_text(json.dumps({"onnx_sha256": "of another file", "metadata": METADATA}))
    assert measured(Net(), engine, images)["boxes"] == 2
    facts.unlink()
    assert measured(Net(), engine, images)["boxes"] == 2


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({**METADATA, "head": "raw"}, "raw maps"),
        ({}, "its metadata lack 'names'"),
        ({**METADATA, "task": "classify"}, "made for the task 'classify'"),
        ({**METADATA, "names": "{0: 'only'}"}, "does not fit 1 classes"),
        ({**METADATA, "names": "((("}, "boxes cannot be read"),
        ({**METADATA, "names": "(" * 5000}, "boxes cannot be read"),
        ({**METADATA, "names": "__import__('os')"}, "boxes cannot be read"),
    ],
)
def test_outputs_that_are_no_boxes_are_refused(
    tmp_path: Path, images: Path, metadata: dict[str, str], message: str
) -> None:
    path = save_net(tmp_path / "net.onnx", metadata)
    with pytest.raises(BenchError, match=message):
        measured(Net(), path, images)


def test_images_that_cannot_be_taken_are_named(tmp_path: Path, images: Path) -> None:
    path = save_net(tmp_path / "net.onnx")
    with pytest.raises(BenchError, match=r"nowhere' does not exist"):
        measured(Net(), path, tmp_path / "nowhere")
    with pytest.raises(BenchError, match="takes 2 images at once"):
        measured(Net(batch=2), path, images)
    (images / "0.npy").write_bytes(b"damaged")
    with pytest.raises(BenchError, match=r"0.npy' cannot be read as an image"):
        measured(Net(), path, images)


def test_metadata_are_read_as_onnx_reads_them(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {**METADATA, "ümlaut": "Straße", "empty": ""}
    path = save_net(tmp_path / "net.onnx", metadata)
    assert read_onnx_metadata(path) == metadata
    content = path.read_bytes()
    for size in (len(content) - 1, len(content) // 2, 3):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="cut off"):
            read_onnx_metadata(path)
    path.write_bytes(b"\x07\xff not a model")
    with pytest.raises(ValueError, match="no ONNX file"):
        read_onnx_metadata(path)
