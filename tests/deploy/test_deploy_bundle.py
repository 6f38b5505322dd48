"""A bundle runs on its own, says what is wrong with it, and is only made of what it can run."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from deploy_nets import LIMITS, Bundled
from typer.testing import CliRunner

from compress.cli import app
from deploy.detector import Detector
from deploy.errors import DeployError
from deploy.images import read_image
from deploy.main import main
from deploy.manifest import MANIFEST, read_bundle
from deploy.pack import write_bundle

_BLOCKED = ("torch", "torchvision", "ultralytics", "compress", "export", "bench", "cv2", "onnx")
_RUN_BLOCKED = f"""
import sys, runpy
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {_BLOCKED!r} + tuple(EXTRA):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
sys.argv = ["detect.py", *sys.argv[1:]]
runpy.run_path(SCRIPT, run_name="__main__")
"""


@pytest.fixture
def bundle(bundled: Callable[[str], Bundled], tmp_path: Path) -> Bundled:
    """A copy that a test may damage."""
    made = bundled("Detect")
    folder = tmp_path / "bundle"
    shutil.copytree(made.folder, folder)
    return Bundled(made.task, made.onnx, folder, made.images)


def detect_alone(
    folder: Path, *arguments: object, blocked: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """``python detect.py`` where nothing but NumPy, onnxruntime and Pillow can be imported."""
    script = f"EXTRA = {blocked!r}\nSCRIPT = {str(folder / 'detect.py')!r}\n{_RUN_BLOCKED}"
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def predict(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_it_runs_where_nothing_else_is_installed(bundle: Bundled, tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    np.save(source / "one.npy", read_image(bundle.images[0]))
    done = detect_alone(bundle.folder, source, "--json", blocked=("PIL",))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (row,) = document["images"]
    expected = Detector(read_bundle(bundle.folder)).detect(read_image(bundle.images[0]))
    assert len(expected) > 3
    assert row["detections"] == expected.as_json(read_bundle(bundle.folder).labels)


def test_what_is_not_installed_is_named(bundle: Bundled) -> None:
    without_pillow = detect_alone(bundle.folder, bundle.images[0], blocked=("PIL",))
    assert without_pillow.returncode == 2
    assert "pip install pillow" in without_pillow.stdout + without_pillow.stderr
    without_runtime = detect_alone(bundle.folder, bundle.images[0], blocked=("onnxruntime",))
    assert without_runtime.returncode == 2
    assert "pip install onnxruntime" in without_runtime.stderr
    assert "Traceback" not in without_pillow.stderr + without_runtime.stderr


def test_the_command_says_the_same_as_the_bundle_itself(bundle: Bundled) -> None:
    alone = json.loads(detect_alone(bundle.folder, bundle.images[0], "--json").stdout)
    ours = predict(bundle.folder, bundle.images[0], "--json")
    assert ours.exit_code == 0, ours.output
    assert json.loads(ours.stdout)["images"] == alone["images"]


def test_people_get_a_table_and_pictures(bundle: Bundled, tmp_path: Path) -> None:
    done = predict(bundle.folder, bundle.images[0].parent, "--out", tmp_path / "drawn")
    assert done.exit_code == 0, done.output
    assert bundle.images[0].name in done.stdout
    assert "8 images" in done.stdout
    drawn = read_image(tmp_path / "drawn" / bundle.images[0].name)
    original = read_image(bundle.images[0])
    assert drawn.shape == original.shape
    assert (drawn != original).any()


@pytest.mark.parametrize("head", ["Segment", "Pose", "OBB"])
def test_every_task_can_be_drawn(
    bundled: Callable[[str], Bundled], tmp_path: Path, head: str
) -> None:
    bundle = bundled(head)
    assert main(bundle.folder, [str(bundle.images[0]), "--out", str(tmp_path)]) == 0
    original = read_image(bundle.images[0])
    assert (read_image(tmp_path / bundle.images[0].name) != original).any()


def test_an_unreadable_image_is_named_and_the_others_go_on(bundle: Bundled, tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    (source / "a-broken.png").write_bytes(bundle.images[0].read_bytes()[:200])
    shutil.copy(bundle.images[0], source / "b-whole.png")
    done = predict(bundle.folder, source, "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 2
    assert [Path(row["image"]).name for row in document["images"]] == ["b-whole.png"]
    assert "a-broken.png" in document["failed"][0]["image"]
    assert "a-broken.png" in done.stderr
    alone = detect_alone(bundle.folder, source)
    assert alone.returncode == 2
    assert "b-whole.png" in alone.stdout


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "deploy/decode.py"])
def test_a_changed_file_is_refused(bundle: Bundled, name: str) -> None:
    file = bundle.folder / name
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    done = predict(bundle.folder, bundle.images[0])
    assert done.exit_code == 2
    assert name in done.stderr
    assert "was changed" in done.stderr
    file.unlink()
    assert "cannot be read" in predict(bundle.folder, bundle.images[0]).stderr


def test_a_newer_bundle_is_refused(bundle: Bundled) -> None:
    edit_manifest(bundle.folder, lambda manifest: manifest.update(schema=2, files={}))
    done = predict(bundle.folder, bundle.images[0])
    assert done.exit_code == 2
    assert "schema 2" in done.stderr


@pytest.mark.parametrize(
    "text", [None, "{", "[]", "{}", '{"schema": 1}', '{"schema": "1"}', "\x00"]
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DeployError, match=r"manifest\.json"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("postprocessing", "task", "guess"),
        ("postprocessing", "classes", 4),
        ("postprocessing", "score", "high"),
        ("postprocessing", "iou", 1.5),
        ("postprocessing", "max_boxes", None),
        ("postprocessing", "masks", 8),
        ("postprocessing", "unheard_of", 1),
        ("preprocessing", "color", "BGR"),
        ("preprocessing", "letterbox", [64]),
        ("preprocessing", "scale", 0),
        ("files", "../secret.txt", {"sha256": ""}),
        ("files", "model.onnx", "hash"),
        (None, "files", {}),
        (None, "model", "../other.onnx"),
        (None, "labels", 3),
    ],
)
def test_a_damaged_manifest_is_refused(
    bundle: Bundled, section: str | None, key: str, value: object
) -> None:
    (bundle.folder.parent / "secret.txt").write_text("")
    edit_manifest(bundle.folder, lambda m: (m[section] if section else m).update({key: value}))
    with pytest.raises(DeployError, match="is damaged"):
        read_bundle(bundle.folder)


def test_sources_without_images_are_refused(bundle: Bundled, tmp_path: Path) -> None:
    for source, why in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "holds no image")):
        done = predict(bundle.folder, source)
        assert done.exit_code == 2
        assert why in done.stderr


@pytest.mark.parametrize("option", [("--score", "1"), ("--score", "-0.1"), ("--iou", "0")])
def test_thresholds_out_of_range_are_refused(bundle: Bundled, option: tuple[str, str]) -> None:
    assert predict(bundle.folder, bundle.images[0], *option).exit_code == 2


def test_the_manifest_describes_the_graph(bundled: Callable[[str], Bundled]) -> None:
    whole = ("Detect", "Segment", "Pose", "OBB")
    found = {
        head: json.loads((bundled(head).folder / MANIFEST).read_text())
        for head in (*whole, "v10Detect", "Detect-nms", "Detect-sparse")
    }
    after = {head: manifest["postprocessing"] for head, manifest in found.items()}
    assert {after[head]["layout"] for head in whole} == {"cells"}
    assert after["v10Detect"]["layout"] == after["Detect-nms"]["layout"] == "boxes"
    assert after["Detect-sparse"]["strides"] == []  # which cells are kept says nothing of levels
    assert after["Detect"]["strides"] == [8, 16, 32]
    assert after["Segment"]["masks"] == 8
    assert after["Pose"]["keypoints"] == [4, 3]
    assert found["Detect"]["labels"] == ["plain", "framed", "crossed"]
    assert found["Detect"]["preprocessing"]["letterbox"] == [64, 64]


def test_only_what_can_run_is_bundled(bundled: Callable[[str], Bundled], tmp_path: Path) -> None:
    source = bundled("Detect").onnx
    changes: dict[str, tuple[str, str]] = {
        "a classifier": ("task", "classify"),
        "names that are code": ("names", "__import__('os').getcwd()"),
        "names of other classes": ("names", "{0: 'a', 1: 'b'}"),
        "a pose model": ("task", "pose"),
        "a segmentation model": ("task", "segment"),
        "an end-to-end model": ("end2end", "True"),
    }
    for number, (key, value) in enumerate(changes.values()):
        model = onnx.load(str(source))
        for entry in model.metadata_props:
            if entry.key == key:
                entry.value = value
        file = tmp_path / f"{number}.onnx"
        onnx.save(model, str(file))
        with pytest.raises(DeployError, match="cannot be bundled"):
            write_bundle(file, "onnxruntime", tmp_path / f"bundle{number}", LIMITS)
    raw = onnx.load(str(source))
    raw.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 1  # maps of four dimensions
    raw.graph.node.append(
        onnx.helper.make_node("Unsqueeze", [raw.graph.output[0].name, "last"], ["maps"])
    )
    raw.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3]), "last"))
    raw.graph.output[0].name = "maps"
    onnx.save(raw, str(tmp_path / "raw.onnx"))
    with pytest.raises(DeployError, match="head: decoded"):
        write_bundle(tmp_path / "raw.onnx", "onnxruntime", tmp_path / "raw", LIMITS)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(DeployError, match="cannot be loaded"):
        write_bundle(tmp_path / "text.onnx", "onnxruntime", tmp_path / "text", LIMITS)
    with pytest.raises(DeployError, match="not empty"):
        write_bundle(source, "onnxruntime", tmp_path, LIMITS)


def test_the_runtime_is_python_3_8(bundle: Bundled) -> None:
    for file in bundle.folder.rglob("*.py"):
        ast.parse(file.read_text(), feature_version=(3, 8))
