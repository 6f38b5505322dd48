"""What stands behind run folders, bundles and files, and which mAP belongs to which of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from bench_graphs import Conv, save_chain
from bench_results import result_of, samples_of
from onnx import helper

import compress.commands.bench.artifacts as module
from bench.errors import BenchError
from compress.commands.bench.artifacts import expand, measured_accuracy, with_accuracy
from compress.errors import CompressError

RATED_IN = ("onnxruntime", "openvino")
NAMES = ("base", "prune", "int8-onnxruntime", "int8-tensorrt")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_run(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A run folder with an export and a bench stage."""
    export = folder / "03-export"
    export.mkdir(parents=True)
    files = {}
    for width, name in enumerate(names, start=4):
        path = save_chain(export / f"{name}.onnx", [Conv("stem", 3, width)])
        files[name] = {"path": f"03-export/{path.name}", "sha256": sha256(path), "bytes": 1}
    rows: list[dict[str, Any]] = [
        {"graph": name, "map": {"val": _scores(0.6 - place / 100)}}
        for place, name in enumerate(names)
    ]
    in_openvino = {"graph": "prune@openvino", "runtime": "OpenVINO 2025.1.0"}
    rows.append({**in_openvino, "map": {"val": _scores(0.1)}})
    stages = [
        {"name": "export", "stage": "export", "files": files, "metrics": {}},
        {"name": "bench", "stage": "bench", "files": {}, "metrics": {"bench": {"rows": rows}}},
    ]
    (folder / "run.json").write_text(json.dumps({"schema": 1, "stages": stages}))
    return folder


def _scores(value: float) -> dict[str, Any]:
    return {"map50": value + 0.2, "map50_95": value, "subject": "boxes"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "my-run")


def test_a_run_gives_its_files_in_the_runtimes_they_were_made_for(run: Path) -> None:
    found = expand([run])
    assert found.labels == ("base", "prune", "int8-onnxruntime")
    assert found.runtimes == ("onnxruntime",) * 3
    assert [path.stem for path in found.paths] == ["base", "prune", "int8-onnxruntime"]


def test_a_file_for_openvino_brings_its_parent_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", ("base", "prune", "int8-openvino"))
    monkeypatch.setattr("compress.stages.bench_plan.find_spec", lambda name: object())
    found = expand([run])
    assert dict(zip(found.labels, found.runtimes, strict=True)) == {
        "base": "onnxruntime",
        "prune": "onnxruntime",
        "prune@openvino": "openvino",
        "int8-openvino": "openvino",
    }
    monkeypatch.setattr("compress.stages.bench_plan.find_spec", lambda name: None)
    without = expand([run])
    assert without.labels == ("base", "prune")
    assert "OpenVINO is not installed" in without.notes[0]


@pytest.mark.parametrize("device", ["cuda", "jetson"])
def test_on_a_gpu_a_run_is_measured_in_tensorrt(run: Path, device: str) -> None:
    found = expand([run], device)
    assert found.labels == ("base", "prune", "int8-tensorrt")
    assert set(found.runtimes) == {"tensorrt"}
    own = expand([run], device, ["onnxruntime"])
    assert own.labels == ("base", "prune", "int8-onnxruntime")
    assert set(own.runtimes) == {"onnxruntime"}
    assert expand([run], device, ["onnxruntime-tensorrt"]).labels[0] == "base@onnxruntime-tensorrt"


def test_files_stay_and_same_names_are_told_apart(tmp_path: Path) -> None:
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths.append(save_chain(tmp_path / folder / "net.onnx", [Conv("stem", 3, 4)]))
    found = expand(paths)
    assert found.paths == tuple(paths)
    assert found.labels == ("one/net", "two/net")
    assert expand([*paths[:1], *paths[:1]], runtimes=["onnxruntime", "openvino"]).labels == (
        "net",
        "net@openvino",
    )
    assert expand(paths[:1] * 2).labels == ("one/net#1", "one/net#2")
    assert expand([paths[0]], "jetson").runtimes == ("tensorrt",)
    assert expand([tmp_path / "net.pt"]).runtimes == ("torch",)


def test_two_runs_are_told_apart(tmp_path: Path) -> None:
    found = expand([make_run(tmp_path / "a"), make_run(tmp_path / "b", ("base", "other"))])
    assert found.labels == ("a/base", "prune", "int8-onnxruntime", "b/base", "other")


def test_a_bundle_gives_its_model(tmp_path: Path) -> None:
    from deploy.manifest import sha256_of

    folder = tmp_path / "bundle"
    folder.mkdir()
    model = save_chain(folder / "model.onnx", [Conv("stem", 3, 4)])
    post = {"task": "detect", "layout": "cells", "classes": 1, "score": 0.2, "iou": 0.5}
    manifest = {
        "schema": 1,
        "target": "tensorrt",
        "model": "model.onnx",
        "labels": ["thing"],
        "preprocessing": {"letterbox": [8, 8], "color": "RGB", "layout": "NCHW"},
        "postprocessing": {**post, "max_boxes": 9, "keypoints": [0, 0], "strides": []},
        "files": {"model.onnx": {"sha256": sha256_of(model), "bytes": 1}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert expand([folder]).paths == (model,)
    assert expand([folder]).labels == ("bundle",)
    assert expand([folder]).runtimes == ("onnxruntime",)
    assert expand([folder], "cuda").runtimes == ("tensorrt",)
    manifest["target"] = "openvino"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert expand([folder]).runtimes == ("openvino",)
    assert expand([folder], "cuda").runtimes == ("onnxruntime",)


def test_what_is_nothing_of_the_kind_is_refused(run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CompressError, match="neither a run folder"):
        expand([empty])
    with pytest.raises(CompressError, match="names 2 runtimes for 1 artifacts"):
        expand([run], runtimes=["onnxruntime", "openvino"])
    with pytest.raises(BenchError, match="Export it first"):
        expand([tmp_path / "net.txt"])
    (run / "03-export" / "base.onnx").write_bytes(b"another")
    with pytest.raises(CompressError, match="is not what the run left there"):
        expand([run])
    (run / "run.json").write_text("{")
    with pytest.raises(CompressError, match="no run with exported files"):
        expand([run])


def test_the_map_of_a_run_goes_by_hash(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere.onnx"
    copied.write_bytes((run / "03-export" / "prune.onnx").read_bytes())
    found = expand([run, copied])
    of_copy = {runtime: found.accuracy[sha256(copied), runtime]["val"] for runtime in RATED_IN}
    assert of_copy["onnxruntime"] == {"map50": 0.79, "map50_95": 0.59}
    assert of_copy["openvino"]["map50_95"] == 0.1
    # a file in a run folder is known without naming the run
    inside = run / "03-export" / "base.onnx"
    assert expand([inside]).accuracy[sha256(inside), "onnxruntime"]["val"]["map50_95"] == 0.6
    assert expand([copied]).accuracy == {}


def test_each_bench_of_a_run_rated_the_export_before_it(run: Path) -> None:
    def stage(place: int, score: float) -> list[dict[str, Any]]:
        rows = [{"graph": "base", "map": {"val": _scores(score)}}]
        return [
            {"stage": "export", "files": {"base": {"sha256": f"hash {place}"}}},
            {"stage": "bench", "files": {}, "metrics": {"bench": {"rows": rows}}},
        ]

    path = run / "run.json"
    own = json.loads(path.read_text())["stages"]
    again = stage(1, 0.3)[1:]
    stages = [*stage(0, 0.1), *stage(1, 0.2), *again, *own]
    path.write_text(json.dumps({"schema": 1, "stages": stages}))
    found = expand([run]).accuracy
    scores = [found[f"hash {place}", "onnxruntime"]["val"]["map50_95"] for place in (0, 1)]
    assert scores == [0.1, 0.3]


def test_rows_get_the_map_of_their_file_or_of_what_they_were_built_of() -> None:
    names = ("file", "engine", "unknown", "elsewhere")
    result = result_of({name: samples_of(1.0, count=20) for name in names})
    file, engine, unknown, elsewhere = result["rows"]
    engine.update(source_sha256="of the ONNX file", runtime="TensorRT 10.3.0")
    elsewhere.update(sha256=file["sha256"], runtime="OpenVINO 2025.1.0")
    accuracy = {
        (file["sha256"], "onnxruntime"): {"val": {"map50_95": 0.6}},
        (file["sha256"], "openvino"): {"val": {"map50_95": 0.4}},
        ("of the ONNX file", "onnxruntime"): {"val": {"map50_95": 0.5}},
        (unknown["sha256"], "openvino"): {"val": {"map50_95": 0.1}},
    }
    rows = with_accuracy(result, accuracy)["rows"]
    assert [row["map"] for row in rows] == [
        {"val": {"map50_95": 0.6}},
        {"val": {"map50_95": 0.5}},
        {},
        {"val": {"map50_95": 0.4}},
    ]
    note = "mAP of the ONNX file that it was built of"
    assert [row["notes"] for row in rows] == [[], [note], [], []]
    assert file["map"] == {}
    assert unknown == rows[2]


def test_map_is_measured_once_a_file_and_runtime(
    run: Path, data_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import compress.models.evaluate as evaluation

    asked: list[tuple[Any, ...]] = []

    def evaluate(path: Path, data: Path, imgsz: int, split: str, **options: Any) -> Any:
        asked.append((path.name, imgsz, split, options["runtime"]))
        return evaluation.Accuracy(0.75, 0.5)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    folder = run / "03-export"
    (folder / "prune.engine").write_bytes(b"engine")
    (folder / "base.engine").write_bytes(b"engine")  # its name is no proof: it has no record
    source = {"onnx_sha256": sha256(folder / "prune.onnx")}
    (folder / "prune.engine.json").write_text(json.dumps(source))
    (folder / "base.pt").write_bytes(b"weights")
    raw = onnx.load(folder / "int8-tensorrt.onnx")
    helper.set_model_props(raw, {"head": "raw"})
    onnx.save(raw, folder / "raw.onnx")
    save_chain(folder / "oblong.onnx", [Conv("stem", 3, 4)], shape=(1, 3, 8, 16))
    runtimes = {
        "prune.engine": "tensorrt",
        "base.engine": "tensorrt",
        "raw.onnx": "onnxruntime",
        "oblong.onnx": "onnxruntime",
        "base.pt": "torch",
    }
    paths = [folder / name for name in ("base.onnx", "base.onnx", "base.onnx", *runtimes)]
    in_each = ["onnxruntime", "onnxruntime", "openvino", *runtimes.values()]
    artifacts = expand(paths, "cuda", in_each)
    found, left_out = measured_accuracy(artifacts, data_yaml)
    assert asked == [
        ("base.onnx", 8, "val", "onnxruntime"),
        ("base.onnx", 8, "val", "openvino"),
        ("prune.onnx", 8, "val", "onnxruntime"),
    ]
    rated = found[sha256(folder / "prune.onnx"), "onnxruntime"]
    assert rated == {"val": {"map50": 0.75, "map50_95": 0.5}}
    assert len(left_out) == 4
    assert "base.engine' has no mAP: the ONNX file that it was built of is not" in left_out[0]
    assert "its head is raw" in left_out[1]
    assert "square images" in left_out[2]
    assert "not .pt files" in left_out[3]
    with pytest.raises(CompressError, match="has no nowhere split"):
        measured_accuracy(artifacts, data_yaml, "nowhere")


def test_finding_files_needs_no_torch(run: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        f"from {module.__name__} import expand\n"
        "expand([Path(sys.argv[1])])\n"
        "print(sorted({'torch', 'ultralytics', 'onnx'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
