"""What is sent to a board, decided before anything is connected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bench_graphs import Conv, save_chain

from bench.errors import BenchError
from bench.remote.job import Job, make_job
from bench.settings import Settings


def job_of(paths: Sequence[Path], settings: Settings | None = None, **more: Any) -> Job:
    given = {"runtimes": None, "labels": None, "align_labels": None, "read_source": None, **more}
    return make_job(paths, settings or Settings(), **given)


def names_of(job: Job) -> list[str]:
    return [parcel.name for parcel in job.parcels]


def content_of(job: Job, name: str) -> Any:
    [content] = [parcel.content for parcel in job.parcels if parcel.name == name]
    assert isinstance(content, bytes)
    return json.loads(content)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_chain(tmp_path / "net.onnx", [Conv("stem", 3, 8)])


def test_the_same_job_has_the_same_name_and_another_has_another(net: Path) -> None:
    first = job_of([net])
    assert job_of([net]) == first
    assert job_of([net], Settings(threads=2)).id != first.id
    assert job_of([net], labels=["other"]).id != first.id
    net.write_bytes(net.read_bytes() + b"\x00")
    assert job_of([net]).id != first.id


def test_files_go_with_what_belongs_to_them(tmp_path: Path, net: Path) -> None:
    for name in ("ir.xml", "ir.bin", "gpu.engine", "gpu.engine.json"):
        (tmp_path / name).write_text("{}")
    ir = names_of(job_of([tmp_path / "ir.xml", net]))
    assert ir[:3] == ["files/0/ir.xml", "files/0/ir.bin", "files/1/net.onnx"]
    gpu = job_of([tmp_path / "gpu.engine"], Settings(device="cuda"))
    assert names_of(gpu)[:2] == ["files/0/gpu.engine", "files/0/gpu.engine.json"]
    assert gpu.modules == ("numpy", "tensorrt")
    (tmp_path / "ir.bin").unlink()
    with pytest.raises(BenchError, match=r"ir\.bin' cannot be read"):
        job_of([tmp_path / "ir.xml"])


def test_an_onnx_file_on_a_jetson_is_built_there(net: Path) -> None:
    settings = Settings(device="jetson", shape=[1, 3, 8, 8])
    facts = {"path": str(net), "nodes": ["a"]}
    job = job_of([net], settings, read_source=lambda path: {**facts, "read": path.name})
    assert [step.name for step in job.steps] == ["build-0", "bench"]
    source, engine, wanted = job.steps[0].arguments[2:]
    told = {"path": "files/0/net.onnx", "nodes": ["a"], "read": "net.onnx"}
    assert content_of(job, source) == told
    assert content_of(job, wanted) == {"shape": [1, 3, 8, 8]}
    [file] = content_of(job, "request.json")["files"]
    assert file == {"path": engine, "runtime": "tensorrt", "label": "net@tensorrt"}
    assert job.names[engine] == job.names["files/0/net.onnx"] == str(net)
    assert list(job.names) == sorted(job.names, key=len, reverse=True)
    with pytest.raises(BenchError, match="compress bench --host"):
        job_of([net], settings)
    kept = job_of([net], settings, runtimes=["onnxruntime"])
    assert [step.name for step in kept.steps] == ["bench"]


def test_images_that_are_drawn_go_along(tmp_path: Path, net: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(40):
        (images / f"{number:02}.ppm").write_bytes(b"P6 1 1 255 " + bytes([number] * 3))
    job = job_of([net], Settings(images=str(images)))
    sent = [parcel for parcel in job.parcels if parcel.name.startswith("images/")]
    assert [parcel.name for parcel in sent] == [f"images/{n:03}.ppm" for n in range(32)]
    order = [str(parcel.content) for parcel in sent]
    assert order == sorted(order)
    assert job.modules == ("numpy", "onnxruntime")
    assert content_of(job, "request.json")["settings"]["images"] == "images"
    photo = images / "photo.jpg"
    photo.touch()
    assert "PIL" in job_of([net], Settings(images=str(photo))).modules
    with pytest.raises(BenchError, match="does not exist"):
        job_of([net], Settings(images=str(tmp_path / "nothing")))


def test_a_bundle_goes_as_a_whole_but_nothing_outside_of_it(tmp_path: Path, net: Path) -> None:
    (tmp_path / "secret").touch()
    bundle = tmp_path / "bundle"
    (bundle / "deploy").mkdir(parents=True)
    (bundle / "deploy" / "main.py").touch()
    net = net.rename(bundle / "model.onnx")
    listed = ["model.onnx", "deploy/main.py", "../secret", str(tmp_path / "secret")]
    (bundle / "manifest.json").write_text(json.dumps({"files": dict.fromkeys(listed, "")}))
    (tmp_path / "image.ppm").write_bytes(b"P6 1 1 255 abc")
    files = ["files/0/model.onnx", "files/0/manifest.json", "files/0/deploy/main.py"]
    job = job_of([net], Settings(images=str(tmp_path / "image.ppm")))
    assert [name for name in names_of(job) if name.startswith("files/")] == files
    assert [name for name in names_of(job_of([net])) if name.startswith("files/")] == files[:1]
