"""Engines built against the bindings' signatures: settings of each version, notes, refusals."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_tensorrt import fake
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from compress.cli import app
from export.engine_audit import read_layers
from export.errors import ExportError
from export.tensorrt_engine import Engine, EngineSettings, build_engine

VERSIONS = ["8.5.2.2", "8.6.1", "10.3.0", "10.12.0.36", "11.1.0.106"]
WEAK = ["8.5.2.2", "8.6.1", "10.3.0", "10.12.0.36"]
CONVS = ["/model.0/conv/Conv", "/model.1/cv1/conv/Conv"]


def save_net(
    path: Path,
    *,
    quantized: bool = True,
    zero: Any = np.int8,
    shape: tuple[Any, ...] = (1, 3, 8, 8),
    half: bool = False,
) -> Path:
    """Two convolutions, Q/DQ at their inputs if ``quantized``, and a Concat."""
    dtype, kind = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    nodes, tensors, data = [], [], "images"
    for number, name in enumerate(CONVS):
        module = f"m{number}"
        weight = f"{module}.weight"
        stored = np.ones((3, 3, 1, 1), np.int8 if quantized else dtype)
        tensors.append(numpy_helper.from_array(stored, weight))
        if quantized:
            scale, point = f"{module}.scale", f"{module}.zero"
            nodes.append(helper.make_node("DequantizeLinear", [weight, scale], ["w" + weight]))
            weight = "w" + weight
            tensors.append(numpy_helper.from_array(np.array(0.1, np.float32), scale))
            tensors.append(numpy_helper.from_array(np.array(0, zero), point))
            for operator in ("QuantizeLinear", "DequantizeLinear"):
                out = f"{module}.{operator}"
                node = helper.make_node(operator, [data, scale, point], [out], f"/{out}")
                nodes.append(node)
                data = out
        out = f"{module}.out"
        nodes.append(helper.make_node("Conv", [data, weight], [out], name))
        data = out
    nodes.append(helper.make_node("Concat", [data], ["output0"], "/model.2/Concat", axis=1))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", kind, list(shape))],
        [helper.make_tensor_value_info("output0", kind, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_net(tmp_path / "int8-tensorrt.onnx")


def install(monkeypatch: pytest.MonkeyPatch, version: str, **options: Any) -> Any:
    module = fake(version, **options)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def build(net: Path, **settings: Any) -> Engine:
    return build_engine(net, net.with_suffix(".engine"), EngineSettings(**settings))


def facts_of(engine: Engine) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(engine.facts_file.read_text())
    return facts


@pytest.mark.parametrize("version", VERSIONS)
def test_engine_and_facts_are_written(
    net: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt = install(monkeypatch, version)
    engine = build(net, workspace_gb=0.5)
    assert trt.built[0]["pools"] == {"WORKSPACE": 1 << 29}
    facts = facts_of(engine)
    assert facts["engine_sha256"] == hashlib.sha256(engine.path.read_bytes()).hexdigest()
    assert facts["onnx_sha256"] == hashlib.sha256(net.read_bytes()).hexdigest()
    assert facts["tensorrt"] == version
    assert facts["settings"]["workspace_gb"] == 0.5
    assert facts["layers"] == 3
    assert {path.name for path in net.parent.iterdir()} == {
        net.name,
        "int8-tensorrt.engine",
        "int8-tensorrt.engine.json",
    }


@pytest.mark.parametrize("version", WEAK)
def test_flags_give_fp16_where_there_are_flags(
    net: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt = install(monkeypatch, version)
    engine = build(net)
    assert trt.built[0]["flags"] == {"INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert trt.built[0]["network"] == {"EXPLICIT_BATCH"}
    assert not engine.strongly_typed
    build(save_net(net, quantized=False))
    assert trt.built[1]["flags"] == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}


def test_8_6_runs_int8_and_fp32_by_flags(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = install(monkeypatch, "8.6.1")
    build(net, fp16=False)
    assert trt.built[0]["flags"] == {"INT8", "OBEY_PRECISION_CONSTRAINTS"}


@pytest.mark.parametrize("version", ["10.3.0", "10.12.0.36"])
def test_10_is_strongly_typed_where_the_file_says_all(
    net: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt = install(monkeypatch, version)
    assert build(net, fp16=False).strongly_typed
    assert build(save_net(net, half=True)).strongly_typed
    for built in trt.built:
        assert built["network"] == {"EXPLICIT_BATCH", "STRONGLY_TYPED"}
        assert not built["flags"]


def test_11_takes_types_from_the_file_and_says_so(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = install(monkeypatch, "11.1.0.106")
    engine = build(net)
    assert engine.strongly_typed
    assert trt.built[0] | {"flags": set(), "network": {"STRONGLY_TYPED"}} == trt.built[0]
    assert "modelopt.onnx.autocast" in " ".join(engine.notes)
    assert not build(net, fp16=False).notes
    assert not build(save_net(net, half=True)).notes


@pytest.mark.parametrize("version", VERSIONS)
def test_times_are_kept_for_the_next_build(
    net: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt = install(monkeypatch, version)
    cache = net.parent / "new" / "times.cache"
    assert not build(net, timing_cache=cache).notes[version.startswith("11") :]
    first = cache.read_bytes()
    build(net, timing_cache=cache)
    assert [built["known_times"] for built in trt.built] == [0, 1]
    assert cache.read_bytes() != first
    assert facts_of(build(net))["settings"]["timing_cache"] is None


@pytest.mark.parametrize("content", [b"junk", b"9.0.0 times:++"], ids=["damaged", "other version"])
def test_a_foreign_timing_cache_is_ignored_with_a_note(
    net: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    trt = install(monkeypatch, "10.3.0")
    cache = net.parent / "times.cache"
    cache.write_bytes(content)
    engine = build(net, timing_cache=cache)
    assert "'times.cache' is of another GPU" in engine.notes[0]
    assert trt.built[0]["known_times"] == 0
    assert cache.read_bytes().startswith(b"10.3.0 times:")
    assert not build(net, timing_cache=cache).notes


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_that_stayed_float_are_named_by_module(
    net: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt = install(monkeypatch, version)
    trt.kept_float.append(CONVS[1])
    engine = build(net)
    conv, concat = engine.float_layers
    kind = "FP32" if version.startswith("11") else "FP16"
    assert (conv.modules, conv.kind, conv.inputs) == (("model.1.cv1",), "CaskConvolution", (kind,))
    assert conv.quantized
    assert not concat.quantized
    assert facts_of(engine)["float_layers"][0]["modules"] == ["model.1.cv1"]


@pytest.mark.parametrize("version", VERSIONS)
def test_open_inputs_need_a_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt = install(monkeypatch, version)
    net = save_net(tmp_path / "net.onnx", shape=("batch", 3, 8, 8))
    with pytest.raises(ExportError, match=r"'images' leaves sizes open, \[\?, 3, 8, 8\]"):
        build(net)
    assert not trt.built
    build(net, shape=(2, 3, 8, 8))
    assert trt.built[0]["shapes"] == [{"images": [(2, 3, 8, 8)] * 3}]
    for shape in ((2, 4, 8, 8), (3, 8, 8), (0, 3, 8, 8)):
        with pytest.raises(ExportError, match="does not fit"):
            build(net, shape=shape)


@pytest.mark.parametrize("version", VERSIONS)
def test_parser_errors_name_the_operator(
    net: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    install(monkeypatch, version).unreadable.append(CONVS[1])
    with pytest.raises(ExportError, match=rf"'{CONVS[1]}': no importer"):
        build(net)
    assert [path.name for path in net.parent.iterdir()] == [net.name]


@pytest.mark.parametrize(
    ("version", "net_of", "settings", "message"),
    [
        ("8.6.1", {}, {}, "does not take Q/DQ pairs before TensorRT 11"),
        ("10.7.0", {}, {}, "does not take Q/DQ pairs before TensorRT 11"),
        ("10.3.0", {"quantized": False}, {"fp16": False}, "does not compute in FP32"),
        ("10.12.0.36", {"quantized": False}, {}, "has no DLA"),
        ("11.1.0.106", {}, {}, "has no DLA"),
        ("11.4.1.10", {"quantized": False}, {}, "export FP16 first"),
        ("10.3.0", {"quantized": False}, {"dla": 2}, "2 DLA cores, counted from 0"),
    ],
)
def test_dla_is_refused_where_it_cannot_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    net_of: dict[str, Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    trt = install(monkeypatch, version, dla_cores=2)
    net = save_net(tmp_path / "net.onnx", **net_of)
    with pytest.raises(ExportError, match=message):
        build(net, **{"dla": 0, **settings})
    assert not trt.built


@pytest.mark.parametrize(("version", "quantized"), [("10.3.0", False), ("11.4.1.10", True)])
def test_dla_falls_back_to_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, quantized: bool
) -> None:
    trt = install(monkeypatch, version, dla_cores=2)
    build(save_net(tmp_path / "net.onnx", quantized=quantized), dla=1)
    assert (trt.built[0]["device"], trt.built[0]["dla"]) == ("DLA", 1)
    assert "GPU_FALLBACK" in trt.built[0]["flags"]


def test_machines_without_tensorrt_or_gpu_are_told_what_to_do(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ExportError, match=r"python3-libnvinfer.*yolo-compress\[tensorrt\]"):
        build(net)
    install(monkeypatch, "10.3.0", gpu=False)
    with pytest.raises(ExportError, match=r"no NVIDIA GPU.*CUDA initialization failure") as caught:
        build(net)
    assert "this is no error" not in str(caught.value)
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", "8.4.1.5")
    with pytest.raises(ExportError, match=r"8\.4\.1\.5 is too old"):
        build(net)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "without inputs"), (b"no net", "not a readable ONNX"), (None, "cannot be read")],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=message):
        build(path)


def test_the_onnxruntime_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"m0\.QuantizeLinear' quantizes to u8"):
        build(save_net(tmp_path / "net.onnx", zero=np.uint8))


@pytest.mark.parametrize("settings", [{"workspace_gb": 0.0}, {"dla": -1}])
def test_settings_without_meaning_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ExportError):
        EngineSettings(**settings)


@pytest.mark.parametrize(
    ("prose", "kind"),
    [
        ("Channel major FP16 format where channel % 8 == 0", "FP16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "INT8"),
        ("Row major linear INT8 format", "INT8"),
        ("Half", "FP16"),
        ("Row major linear FP32", "FP32"),
        ("N/A due to dynamic shapes", "unknown"),
        ("Row major linear BFloat16 format", "BF16"),
    ],
)
def test_types_are_read_from_prose(prose: str, kind: str) -> None:
    tensors = [{"Name": "x", "Format/Datatype": prose}]
    row = {"Name": "layer", "LayerType": "Pooling", "Inputs": tensors, "Outputs": tensors}
    (layer,) = read_layers(json.dumps({"Layers": [row]}), {})
    assert layer.outputs == (kind,)
    assert layer.stayed_float == (kind in {"FP16", "FP32", "BF16"})
    assert layer.untold == (kind == "unknown")
    (moved,) = read_layers(json.dumps({"Layers": [row | {"LayerType": "Reformat"}]}), {})
    assert not moved.stayed_float


def test_modules_come_from_a_name_where_there_is_no_metadata() -> None:
    modules = {"/model.0/conv/Conv": "model.0", "/model.2/a/Mul": "model.2.a"}
    rows = [
        {"Name": "model.0.conv.weight + /model.0/conv/Conv + PWN(/x/Mul)"},
        {"Name": "{ForeignNode[/model.0/conv/Conv.../model.2/a/Mul]}"},
    ]
    found = [layer.modules for layer in read_layers(json.dumps({"Layers": rows}), modules)]
    assert found == [("model.0",), ("model.0", "model.2.a")]


@pytest.mark.parametrize("text", ["", "[]", '{"Layers": ["a name"]}', '{"Layers": [{}]}', "null"])
def test_an_inspector_that_tells_nothing_is_no_pass(text: str) -> None:
    with pytest.raises(ExportError, match="unknown what stayed float"):
        read_layers(text, {})


def test_command_builds_and_lists(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = install(monkeypatch, "10.3.0")
    trt.kept_float.append(CONVS[1])
    done = CliRunner().invoke(app, ["engine", str(net), "--workspace", "1"])
    assert done.exit_code == 0, done.output
    assert "3, of which 2 stayed float" in done.output
    assert "model.1.cv1 (CaskConvolution, FP16 -> FP16; has Q/DQ, so INT8 was" in done.output
    out = net.parent / "other.engine"
    options = ["--out", str(out), "--no-fp16", "--json"]
    done = CliRunner().invoke(app, ["engine", str(net), *options])
    assert json.loads(done.stdout)["strongly_typed"]
    assert out.is_file()
    assert trt.built[1]["flags"] == set()


def test_command_tells_faults_in_one_message(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    done = CliRunner().invoke(app, ["engine", str(net)])
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert "'tensorrt' cannot be imported" in done.output


def parameters_of(member: Any) -> list[list[str]]:
    """Parameter names of a function, each overload apart; from pybind11's docstring if need be."""
    if inspect.isfunction(member):
        return [[name for name in inspect.signature(member).parameters if name != "self"]]
    signatures = re.findall(r"^(?:\d\. )?\w+\((.*)\) ->", member.__doc__ or "", re.MULTILINE)
    return [
        [name for name in re.findall(r"(\w+): ", signature) if name != "self"]
        for signature in signatures
    ]


def test_the_fake_is_no_wider_than_the_installed_bindings() -> None:
    real = pytest.importorskip("tensorrt")
    version = real.__version__
    module = fake(version)
    for name, kind in vars(module).items():
        if not isinstance(kind, type):
            continue
        members = [member for member in vars(kind) if not member.startswith("_")]
        for member in members:
            assert hasattr(getattr(real, name), member), f"{name}.{member} in {version}"
            ours = vars(kind)[member]
            if inspect.isfunction(ours):
                theirs = parameters_of(getattr(getattr(real, name), member))
                assert parameters_of(ours)[0] in theirs, f"{name}.{member} in {version}: {theirs}"
