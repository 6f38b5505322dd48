"""Engines in TensorRT, through PyCUDA and through ctypes, on a GPU made of host memory."""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_cuda import PARTS_NS, FakeCuda, fake_pycuda
from fake_tensorrt_runtime import LAYERS, fake, plan

import bench.run
from bench.errors import BenchError
from bench.loop import Minimum
from bench.profile.tensorrt_times import tensorrt_node_times
from bench.run import bench_files
from bench.runtimes.tensorrt_engine import TensorRtEngine
from bench.runtimes.tensorrt_load import logger_of, plan_of
from bench.settings import Settings

VERSIONS = ["8.5.2.2", "8.6.1", "10.3.0", "11.4.0.106"]
SHORT = Settings(device="cuda", min_seconds=0, min_count=11, warmup_seconds=0, energy_seconds=0)


@pytest.fixture(params=["pycuda", "cudart"])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    cuda = FakeCuda(monkeypatch)
    driver = fake_pycuda(cuda) if request.param == "pycuda" else None
    package: Any = ModuleType("pycuda")
    package.driver = driver
    monkeypatch.setitem(sys.modules, "pycuda", package if driver else None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    yield cuda
    logger_of.cache_clear()
    assert cuda.alive() == 0, "handles or memory that nobody gave back"
    assert driver is None or driver.depth() == 0


@pytest.fixture
def install(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def put(version: str = "10.3.0", **options: Any) -> Any:
        trt = fake(cuda.launch, version, **options)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        return trt

    return put


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "net.engine"
    path.write_bytes(plan())
    return path


def write_facts(engine: Path, **facts: Any) -> None:
    engine.with_name(f"{engine.name}.json").write_text(json.dumps(facts))


class FakeDevice:
    """A GPU that is always well."""

    name = "cuda"

    def facts(self) -> dict[str, Any]:
        return {"gpu": "Fake GPU 0"}

    def state(self) -> dict[str, Any]:
        return {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[Any]]:
        yield []

    def doubts(self, *_: Any) -> list[str]:
        return []

    def power_meter(self) -> None:
        return None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("graph", [True, False])
def test_infers_what_it_was_fed(
    cuda: FakeCuda, install: Callable[..., Any], tmp_path: Path, version: str, graph: bool
) -> None:
    install(version)
    path = tmp_path / "net.engine"
    path.write_bytes(plan(version))
    launches = cuda.count("cudaGraphLaunch")
    with TensorRtEngine(path, cuda_graph=graph) as net:
        assert net.input_shape == (1, 3, 4, 4)
        assert net.runtime == f"TensorRT {version}"
        assert net.device == "Fake GPU 0"
        assert net.notes == []
        for values in (np.full((1, 3, 4, 4), 0.25, np.float32), np.ones((1, 3, 4, 4), np.float32)):
            net.feed(values)
            net.infer()
            boxes, classes = net.outputs()
            assert (boxes.shape, boxes.dtype) == ((1, 6), np.float32)
            assert (classes.shape, classes.dtype) == ((1, 2, 3), np.float16)
            assert (boxes == values.flat[0] * 2 + 1).all()
            assert (classes == values.flat[0] * 2 + 1).all()
        assert net.parts_ns() == {**PARTS_NS, "device_to_host": 2 * PARTS_NS["device_to_host"]}
    assert (cuda.count("cudaGraphLaunch") > launches) == graph
    with pytest.raises(RuntimeError, match="inside of the with block"):
        net.infer()


def test_rows_of_a_whole_run(
    install: Callable[..., Any], engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.setattr(bench.run, "device_of", lambda name, index: FakeDevice())
    float_layer = {"name": "conv", "inputs": ["FP16"], "outputs": ["FP16"]}
    write_facts(engine, onnx_sha256="ab" * 32, gpu="Fake GPU 0", float_layers=[float_layer])
    second = engine.with_name("second.engine")
    second.write_bytes(plan(kind="HALF"))
    result = bench_files([engine, second], SHORT)
    first, other = result["rows"]
    assert [first["label"], other["label"]] == ["net@tensorrt", "second@tensorrt"]
    assert (first["runtime"], first["device"]) == ("TensorRT 10.3.0", "Fake GPU 0")
    assert (first["float_type"], other["float_type"]) == ("f16", "unknown")
    assert (first["source_sha256"], other["source_sha256"]) == ("ab" * 32, None)
    for row in result["rows"]:
        assert {part: times["p50"] for part, times in row["parts_ms"].items()} == {
            "host_to_device": 0.25,
            "compute": 2.0,
            "device_to_host": 0.25,
        }
        assert row["latency_ms"]["count"] == len(result["parts_ns"][row["label"]]["compute"]) == 11
    assert json.loads(json.dumps(result)) == result


def test_copies_side_by_side_run_in_their_own_threads(
    install: Callable[..., Any], engine: Path
) -> None:
    install()
    faults: list[BaseException] = []

    def run(net: TensorRtEngine) -> None:
        try:
            net.infer()
        except BaseException as error:
            faults.append(error)

    with TensorRtEngine(engine, index=1) as first, TensorRtEngine(engine, index=1) as second:
        threads = [threading.Thread(target=run, args=[net]) for net in (first, second)]
        for thread in threads:
            thread.start()
            thread.join()
        assert not faults
        assert first.outputs()[0].any()


def test_a_graph_that_cannot_be_recorded_is_noted(
    cuda: FakeCuda, install: Callable[..., Any], engine: Path
) -> None:
    trt = install()
    trt.synchronizing = lambda s: cuda.library.cudaStreamSynchronize(ctypes.c_void_p(s))
    with TensorRtEngine(engine) as net:
        [note] = net.notes
        assert note.startswith("runs without CUDA graph: cudaStreamEndCapture: operation failed")
        net.feed(np.zeros(net.input_shape, np.float32))
        net.infer()
        assert (net.outputs()[0] == 1).all()


def test_a_graph_that_cannot_be_launched_is_noted(
    cuda: FakeCuda, install: Callable[..., Any], engine: Path
) -> None:
    install()
    cuda.fail("cudaGraphLaunch", 1)
    with TensorRtEngine(engine) as net:
        [note] = net.notes
        assert note.startswith(
            "runs without CUDA graph: cudaGraphLaunch: a made-up error (error 1)"
        )
        net.feed(np.zeros(net.input_shape, np.float32))
        net.infer()
        assert (net.outputs()[0] == 1).all()


def test_without_libcudart_pycuda_runs_without_graph(
    cuda: FakeCuda, install: Callable[..., Any], engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.modules["pycuda"] is None:
        pytest.skip("ctypes needs the library itself")
    install()
    monkeypatch.setattr("bench.cuda.library._places", lambda: iter(["/gone/libcudart.so"]))
    with TensorRtEngine(engine) as net:
        [note] = net.notes
        assert "runs without CUDA graph: CUDA's runtime library, libcudart, is not found" in note
        net.infer()


def test_half_precision_inputs_are_cast(install: Callable[..., Any], tmp_path: Path) -> None:
    install()
    path = tmp_path / "half.engine"
    path.write_bytes(plan(kind="HALF"))
    with TensorRtEngine(path) as net:
        net.feed(np.full((1, 3, 4, 4), 0.5, np.float32))
        net.infer()
        assert (net.outputs()[0] == 2).all()
        with pytest.raises(ValueError, match="for an input of shape"):
            net.feed(np.zeros((3, 4, 4), np.float32))


PROFILE = [(1, 3, 4, 4), (2, 3, 4, 4), (4, 3, 8, 8)]


def test_open_dimensions_need_a_shape_of_the_profile(
    install: Callable[..., Any], tmp_path: Path
) -> None:
    install()
    path = tmp_path / "open.engine"
    path.write_bytes(plan(shape=(-1, 3, -1, -1), profile=PROFILE))
    with pytest.raises(
        BenchError, match=r"'images' open.*\[1, 3, 4, 4\] to \[4, 3, 8, 8\].*--shape 2,3,4,4"
    ):
        TensorRtEngine(path).__enter__()
    with TensorRtEngine(path, shape=[4, 3, 8, 8]) as net:
        net.infer()
        assert net.input_shape == (4, 3, 8, 8)
        assert net.outputs()[0].shape == (4, 6)
    for shape, message in [
        ([5, 3, 8, 8], r"cannot run on an input of shape \[5, 3, 8, 8\]. The engine was built for"),
        ([1, 4, 8, 8], "does not fit"),
        ([3, 8, 8], "does not fit"),
    ]:
        with pytest.raises(BenchError, match=message):
            TensorRtEngine(path, shape=shape).__enter__()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "INT8"}, r"'images' as INT8; the bench feeds float images"),
        ({"kind": "UINT8"}, r"'images' as UINT8"),
        ({"location": "HOST"}, "in host memory: it is a shape"),
        ({"format": "CHW32"}, r"'images' in the layout CHW32"),
        ({"mode": "OUTPUT"}, r"has 0 inputs \(none\)"),
    ],
)
def test_inputs_that_are_no_plain_image_are_refused(
    install: Callable[..., Any], engine: Path, change: dict[str, str], message: str
) -> None:
    install()
    content = json.loads(plan())
    content["tensors"][0].update(change)
    engine.write_bytes(json.dumps(content).encode())
    with pytest.raises(BenchError, match=message):
        TensorRtEngine(engine).__enter__()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "FP8"}, "'boxes' as FP8, which numpy does not know"),
        ({"shape": [1, -1]}, r"'boxes' of shape \[1, -1\]: its size depends on the image"),
        ({"format": "CHW2"}, "'boxes' in the layout CHW2"),
    ],
)
def test_outputs_that_cannot_be_read_are_refused(
    install: Callable[..., Any], engine: Path, change: dict[str, Any], message: str
) -> None:
    install()
    content = json.loads(plan())
    content["tensors"][1].update(change)
    engine.write_bytes(json.dumps(content).encode())
    with pytest.raises(BenchError, match=message):
        TensorRtEngine(engine).__enter__()


def refusal_of(path: Path) -> str:
    with pytest.raises(BenchError) as caught:
        TensorRtEngine(path).__enter__()
    assert "this is no error" not in str(caught.value)
    return str(caught.value)


def test_an_engine_of_another_version_or_gpu_says_which(
    install: Callable[..., Any], engine: Path
) -> None:
    install("8.6.1")
    told = refusal_of(engine)
    assert "built by another TensorRT version or for another GPU" in told
    assert "TensorRT says: Version tag does not match" in told
    assert "compress engine FILE.onnx" in told
    write_facts(engine, tensorrt="10.3.0", gpu="Orin")
    told = refusal_of(engine)
    assert "It was built by TensorRT 10.3.0, and this is 8.6.1." in told
    assert "It was built on Orin, and this is Fake GPU 0." in told


def test_an_engine_that_is_cut_off_or_changed_says_so(
    install: Callable[..., Any], engine: Path
) -> None:
    install()
    whole = engine.read_bytes()
    write_facts(engine, tensorrt="10.3.0", gpu="Fake GPU 0", bytes=len(whole), engine_sha256="0")
    engine.write_bytes(whole[:-20])
    assert f"has {len(whole) - 20} bytes of the {len(whole)} that were written" in refusal_of(
        engine
    )
    engine.write_bytes(b"x" * len(whole))
    assert "are not those that were written: damaged or replaced" in refusal_of(engine)
    engine.write_bytes(b"")
    assert "has 0 bytes of the" in refusal_of(engine)


@pytest.mark.parametrize(
    "facts", ["no json", "[]", '{"float_layers": 3, "settings": 1, "gpu": []}']
)
def test_strange_facts_are_no_fault(install: Callable[..., Any], engine: Path, facts: str) -> None:
    install()
    engine.with_name(f"{engine.name}.json").write_text(facts)
    with TensorRtEngine(engine) as net:
        assert (net.float_type, net.notes) == ("unknown", [])


def test_an_engine_of_a_sister_gpu_is_noted(install: Callable[..., Any], engine: Path) -> None:
    install()
    write_facts(engine, gpu="Fake GPU 9")
    with TensorRtEngine(engine) as net:
        assert net.notes == ["built on Fake GPU 9, and runs on Fake GPU 0"]


def test_an_engine_for_dla_is_given_its_core(install: Callable[..., Any], engine: Path) -> None:
    install()
    engine.write_bytes(plan(dla=1))
    write_facts(engine, gpu="Fake GPU 0", settings={"dla": 1})
    with TensorRtEngine(engine) as net:
        net.infer()


def test_ultralytics_metadata_is_passed_over(install: Callable[..., Any], engine: Path) -> None:
    install()
    metadata = json.dumps({"stride": 32}).encode()
    engine.write_bytes(len(metadata).to_bytes(4, "little") + metadata + plan())
    with TensorRtEngine(engine) as net:
        net.infer()
    for content in (b"", b"ftrt", b"\xff\xff\xff\xff{", plan()):
        assert plan_of(content) == content


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("create_execution_context", "cannot make room to run it. out of memory"),
        ("set_input_shape", "does not take an input of shape .* the input shape is not supported"),
        ("execute_async_v3", "fails in TensorRT. enqueueV3 failed"),
    ],
)
def test_calls_that_fail_are_one_sentence(
    install: Callable[..., Any], engine: Path, call: str, message: str
) -> None:
    install().refusing.add(call)
    with pytest.raises(BenchError, match=message):
        TensorRtEngine(engine).__enter__()


def test_a_gpu_that_runs_out_of_memory_is_one_sentence(
    cuda: FakeCuda, install: Callable[..., Any], engine: Path
) -> None:
    install()
    cuda.fail("cudaMalloc", 2)
    with pytest.raises(BenchError, match="cudaMalloc"):
        TensorRtEngine(engine).__enter__()


def test_what_is_missing_or_too_old_says_what_to_do(
    install: Callable[..., Any], engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    told = refusal_of(engine)
    assert "pip install 'yolo-compress[tensorrt]'" in told
    assert "python3-libnvinfer" in told
    install("8.2.1.9")
    assert f"trtexec --loadEngine={engine} --useCudaGraph" in refusal_of(engine)
    install()
    assert "does not exist. Build it" in refusal_of(engine.with_name("gone.engine"))
    assert "is not an .engine file" in refusal_of(engine.with_suffix(".plan"))


def test_layers_are_timed_by_name(install: Callable[..., Any], engine: Path) -> None:
    install()
    times = tensorrt_node_times({"a": engine, "b": engine}, minimum=Minimum(0, 3))
    assert times == {"a": LAYERS, "b": LAYERS}
