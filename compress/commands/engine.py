"""``compress engine``: an ONNX file becomes a TensorRT engine, on the machine that will run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compress import output
from compress.commands.options import shape_of
from compress.faults import guarded

if TYPE_CHECKING:
    from export.engine_audit import EngineLayer
    from export.tensorrt_engine import Engine


@guarded
def engine(
    context: typer.Context,
    onnx: Annotated[Path, typer.Argument(metavar="ONNX", help="int8-tensorrt.onnx, or float")],
    out: Annotated[
        Path | None, typer.Option(help="Engine to write [default: ONNX with .engine]")
    ] = None,
    fp16: Annotated[
        bool, typer.Option("--fp16/--no-fp16", help="Let what is not INT8 run in FP16")
    ] = True,
    workspace: Annotated[
        float | None, typer.Option(help="Most scratch memory, GiB [default: all]")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="Measured times of layers: read if there, and written")
    ] = None,
    dla: Annotated[
        int | None, typer.Option(help="DLA core to build for; the rest falls back to the GPU")
    ] = None,
    shape: Annotated[
        str, typer.Option(help="Input of a file that leaves it open, such as 1,3,640,640")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout")
    ] = False,
) -> None:
    """Build a TensorRT engine for this machine's GPU and name the layers that stayed float."""
    import json

    from export.tensorrt_engine import EngineSettings, build_engine

    settings = EngineSettings(fp16, workspace, timing_cache, dla, shape_of(shape))
    target = out or onnx.with_suffix(".engine")
    with output.stdout_for_results():
        built = build_engine(onnx, target, settings)
    facts = json.loads(built.facts_file.read_text())
    if as_json:
        output.show_json({**facts, "path": str(target)})
    else:
        _show(built)


def _show(built: Engine) -> None:
    left = built.float_layers
    output.show_fields(
        {
            "engine": built.path,
            "made for": f"TensorRT {built.tensorrt}, {built.gpu or 'a GPU that tells no name'}",
            "layers": f"{len(built.layers)}, of which {len(left)} stayed float",
        }
    )
    for layer in left:
        typer.echo(f"  {_described(layer)}")
    for note in built.notes:
        typer.echo(f"Note: {note}")


def _described(layer: EngineLayer) -> str:
    types = f"{', '.join(layer.inputs)} -> {', '.join(layer.outputs)}"
    expected = "; has Q/DQ, so INT8 was expected" if layer.quantized else ""
    return f"{', '.join(layer.modules) or layer.name} ({layer.kind}, {types}{expected})"
