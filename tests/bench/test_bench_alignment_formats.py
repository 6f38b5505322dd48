"""Ragged channels read from OpenVINO IRs and TensorRT engines, and exit code 3 with the table."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bench_graphs import Conv, save_chain, save_detector
from typer.testing import CliRunner

from bench.alignment.convs import (
    BOX_BINS,
    HEAD,
    IMAGE,
    Misaligned,
    conv_sides,
    misaligned_convs,
)
from bench.alignment.engine_nodes import layers_as_nodes
from bench.alignment.graph import sides_of
from bench.errors import BenchError
from compress.cli import app

GROUPED = [
    Conv("/model.0/conv/Conv", 3, 24),
    Conv("/model.1/conv/Conv", 24, 24, groups=24),
    Conv("/model.2/cv1/conv/Conv", 24, 36, groups=2),
    Conv("/model.3/ConvTranspose", 36, 20, groups=4, transposed=True),
    Conv("/model.4/ConvTranspose", 20, 30, transposed=True),
    Conv("/model.5/Conv", 30, 5),
]
_IR = """<?xml version="1.0"?>
<net name="n" version="11"><layers>
 <layer id="0" name="images" type="Parameter">
  <output><port id="0"><dim>1</dim></port></output></layer>
 <layer id="1" name="w" type="Const">
  <output><port id="0"><dim>9</dim><dim>3</dim></port></output></layer>
 <layer id="2" name="loop" type="Loop"><input><port id="0"><dim>1</dim></port></input>
  <output><port id="1"><dim>1</dim></port></output>
  <body><layers><layer id="1" name="inner" type="Convolution"/></layers></body></layer>
 <layer id="3" name="first" type="Convolution">
  <input><port id="0"><dim>1</dim></port><port id="1"><dim>{out}</dim><dim>3</dim></port></input>
  <output><port id="2"><dim>1</dim></port></output></layer>
</layers><edges>
 <edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
 <edge from-layer="2" from-port="1" to-layer="3" to-port="0"/>
 <edge from-layer="1" from-port="0" to-layer="3" to-port="1"/>
</edges></net>
"""


def save_ir(net: Path, half: bool = False) -> Path:
    openvino = pytest.importorskip("openvino")
    path = net.with_suffix(".xml")
    openvino.save_model(openvino.Core().read_model(str(net)), str(path), compress_to_fp16=half)
    return path


def plain(path: Path) -> list[tuple[str, int, str]]:
    return [(conv.side, conv.channels, conv.exempt) for conv in conv_sides(path)]


@pytest.mark.parametrize(("quantized", "half"), [(False, False), (False, True), (True, False)])
def test_an_ir_has_the_channels_of_its_onnx_file(
    tmp_path: Path, quantized: bool, half: bool
) -> None:
    net = save_chain(tmp_path / "net.onnx", GROUPED, quantized=quantized)
    assert plain(save_ir(net, half)) == plain(net)


def test_what_the_task_fixes_is_exempt_in_an_ir_too(tmp_path: Path) -> None:
    net = tmp_path / "yolo.onnx"
    save_detector(net, width=12, classes=3, bins=5, quantized=True)
    reasons = {conv.exempt for conv in conv_sides(save_ir(net))}
    assert reasons == {"", IMAGE, HEAD, BOX_BINS}
    assert [fault.channels for fault in misaligned_convs(net.with_suffix(".xml"), 8)] == [12] * 5


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_miss_ends_with_exit_code_3_and_the_table_by_module(tmp_path: Path, suffix: str) -> None:
    widths = [Conv("/model.0/conv/Conv", 3, 8), Conv("/model.2/cv1/conv/Conv", 8, 13)]
    net = save_chain(tmp_path / "net.onnx", [*widths, Conv("/model.3/Conv", 13, 5)])
    path = net if suffix == ".onnx" else save_ir(net)
    done = CliRunner().invoke(app, ["bench", str(path), "--align", "8", "--min-seconds", "0"])
    assert done.exit_code == 3
    label = {".onnx": "net", ".xml": "net@openvino"}[suffix]
    rows = [line.split() for line in done.stderr.splitlines()]
    assert [label, "model.2.cv1", "output", "13", "3"] in rows
    assert [label, "model.3", "input", "13", "3"] in rows
    assert len(rows) == 6


def test_layers_inside_of_a_loop_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "net.xml"
    path.write_text(_IR.format(out=9))
    assert [(conv.layer, conv.channels) for conv in conv_sides(path)] == [
        ("first", 3),
        ("first", 9),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "truncated or no OpenVINO IR"),
        (_IR[:700], "truncated or no OpenVINO IR"),
        ("<net><layers/></net>", "no convolution"),
        ("<!DOCTYPE net [<!ENTITY a 'b'>]><net>&a;</net>", "document type"),
        (_IR.format(out=-1), "'first' have no fixed shape"),
        (_IR.format(out="x"), "truncated or no OpenVINO IR"),
    ],
    ids=["empty", "truncated", "no layers", "entities", "open shape", "no number"],
)
def test_a_damaged_ir_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "net.xml"
    path.write_text(text)
    with pytest.raises(BenchError, match=rf"net\.xml.*{message}"):
        conv_sides(path)


def test_a_missing_ir_and_a_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"gone\.xml.*No such file"):
        conv_sides(tmp_path / "gone.xml")
    with pytest.raises(BenchError, match=r"best\.pt'.*\.onnx, \.xml, \.engine.*exported"):
        conv_sides(tmp_path / "best.pt")


def layer(name: str, kind: str, inputs: list[Any], outputs: list[Any], **more: Any) -> Any:
    def tensors(named: list[Any]) -> list[Any]:
        return [{"Name": tensor, "Dimensions": [1, size, 8, 8]} for tensor, size in named]

    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": tensors(inputs),
        "Outputs": tensors(outputs),
        **more,
    }


ENGINE = Path("net.engine")
ENGINE_LAYERS = [
    layer("Reformatting CopyNode", "Reformat", [("images", 3)], [("copy", 3)]),
    layer(
        "fused",
        "CaskConvolution",
        [("copy", 3)],
        [("a", 12)],
        Metadata="[ONNX Layer: /model.0/conv/Conv]\x1e[ONNX Layer: /model.0/act/Mul]",
    ),
    layer("/model.1/conv/Conv", "kgen", [("a", 12)], [("b", 16)], ParameterType="Convolution"),
    layer("/model.2/Conv", "CaskConvolution", [("b", 16)], [("out", 5)]),
]


def test_an_engines_layers_tell_channels_and_operators() -> None:
    nodes = layers_as_nodes(json.dumps({"Layers": ENGINE_LAYERS}), ENGINE)
    found = [(side.layer, side.channels, side.exempt) for side in sides_of(nodes)]
    assert found == [
        ("/model.0/conv/Conv", 3, IMAGE),
        ("/model.0/conv/Conv", 12, ""),
        ("/model.1/conv/Conv", 12, ""),
        ("/model.1/conv/Conv", 16, ""),
        ("/model.2/Conv", 16, ""),
        ("/model.2/Conv", 5, HEAD),
    ]


OPEN = layer("/model.0/Conv", "CaskConvolution", [("images", "N/A")], [("a", 8)])


@pytest.mark.parametrize("layers", [["/model.0/conv/Conv"], [OPEN], None], ids=str)
def test_an_engine_without_details_says_how_to_build_it(layers: Any) -> None:
    with pytest.raises(BenchError, match=r"net\.engine.*profiling verbosity.*compress engine"):
        layers_as_nodes(json.dumps({"Layers": layers}), ENGINE)


def test_an_engine_that_hides_its_convolutions_says_so() -> None:
    dla = layer("{ForeignNode[/model.0/conv/Conv.../model.22/Concat]}", "DLA", [("images", 3)], [])
    with pytest.raises(BenchError, match=r"net\.engine' shows no convolution: the DLA"):
        layers_as_nodes(
            json.dumps({"Layers": [dla, {"Name": "wait", "LayerType": "Wait"}]}), ENGINE
        )


class FakeEngine:
    def __init__(self, text: str) -> None:
        self._text = text

    def create_engine_inspector(self) -> FakeEngine:
        return self

    def get_engine_information(self, form: str) -> str:
        assert form == "json"
        return self._text


def fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TensorRT whose engines are their inspector's text; those that begin with # do not load."""

    class Runtime:
        def __init__(self, logger: Any) -> None: ...

        def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
            return None if content.startswith(b"#") else FakeEngine(content.decode())

    class ILogger:
        class Severity:
            INTERNAL_ERROR, ERROR = range(2)

    class LayerInformationFormat:
        JSON = "json"

    module: Any = ModuleType("tensorrt")
    module.__version__ = "10.3.0"
    module.Runtime, module.ILogger = Runtime, ILogger
    module.LayerInformationFormat = LayerInformationFormat
    monkeypatch.setitem(sys.modules, "tensorrt", module)


def test_an_engine_is_read_through_the_inspector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tensorrt(monkeypatch)
    path = tmp_path / "net.engine"
    path.write_text(json.dumps({"Layers": ENGINE_LAYERS}))
    assert misaligned_convs(path, 8) == [
        Misaligned("/model.0/conv/Conv", "output", 12),
        Misaligned("/model.1/conv/Conv", "input", 12),
    ]


def test_an_engine_that_does_not_load_names_version_and_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tensorrt(monkeypatch)
    path = tmp_path / "net.engine"
    path.write_bytes(b"# of another machine")
    with pytest.raises(
        BenchError, match=r"TensorRT 10\.3\.0.*another TensorRT version.*another GPU"
    ):
        conv_sides(path)
    with pytest.raises(BenchError, match="does not exist"):
        conv_sides(tmp_path / "gone.engine")


def test_without_tensorrt_the_onnx_file_of_an_engine_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    engine = tmp_path / "net.engine"
    engine.write_bytes(b"an engine")
    with pytest.raises(BenchError, match=r"tensorrt.*net\.engine\.json.*check that file"):
        conv_sides(engine)
    source = save_chain(tmp_path / "float.onnx", [Conv("stem", 3, 6), Conv("last", 6, 5)])
    facts = tmp_path / "net.engine.json"
    facts.write_text(json.dumps({"onnx_sha256": hashlib.sha256(source.read_bytes()).hexdigest()}))
    assert [fault.layer for fault in misaligned_convs(engine, 8)] == ["stem", "last"]
    facts.write_text(json.dumps({"onnx_sha256": "of another file"}))
    with pytest.raises(BenchError, match="check that file"):
        conv_sides(engine)
