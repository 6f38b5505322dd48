"""``compress bench FILE ...``: measure artifacts against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress import output
from compress.commands.options import shape_of
from compress.errors import CompressError
from compress.faults import guarded

_STOPPED = 130


@guarded
def measure(
    context: typer.Context,
    artifacts: Annotated[
        list[Path], typer.Argument(help="Exported files or run folders; the first is the base")
    ],
    runtime: Annotated[
        str,
        typer.Option(
            help="onnxruntime, onnxruntime-tensorrt, openvino, tensorrt or torch; or one a file, "
            "separated by commas [default: by suffix]"
        ),
    ] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda or jetson")] = "cpu",
    index: Annotated[int, typer.Option(min=0, help="Which GPU")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of one inference")] = 1,
    min_seconds: Annotated[float, typer.Option(min=0, help="Least time of measuring")] = 5.0,
    min_count: Annotated[int, typer.Option(min=1, help="Least samples a file")] = 64,
    align: Annotated[
        str, typer.Option(help="Refuse channels that are no multiple of this, or of a device's")
    ] = "",
    shape: Annotated[
        str, typer.Option(help="Input of files that leave it open, such as 1,3,640,640")
    ] = "",
    streams: Annotated[
        int, typer.Option(min=0, help="Also throughput, with so many copies side by side")
    ] = 0,
    images: Annotated[
        Path | None, typer.Option(help="Also latency from image to boxes, on this folder's images")
    ] = None,
    energy_seconds: Annotated[
        float, typer.Option(min=0, help="How long a file runs alone to meter its energy; 0: not")
    ] = 5.0,
    out: Annotated[Path | None, typer.Option(help="Keep the result, a JSON file")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout")
    ] = False,
) -> None:
    """Measure exported files against each other in one interleaved run."""
    from bench.results.text import render
    from bench.run import bench_files
    from bench.settings import Settings

    settings = Settings(
        device=device,
        threads=threads,
        index=index,
        min_seconds=min_seconds,
        min_count=min_count,
        shape=_sizes(shape),
        align=_align(align),
        streams=streams,
        images=None if images is None else str(images),
        energy_seconds=energy_seconds,
    )
    with output.stdout_for_results():
        result = bench_files(artifacts, settings, runtimes=_one_each(runtime, len(artifacts)))
    if as_json:
        output.show_json(result)
    else:
        typer.echo(render(result))
    if not result["complete"]:
        raise typer.Exit(_STOPPED)


def _sizes(text: str) -> list[int] | None:
    shape = shape_of(text)
    return None if shape is None else list(shape)


def _one_each(runtime: str, count: int) -> list[str] | None:
    """One runtime a file, of ``onnxruntime`` or ``onnxruntime,openvino``; None by default."""
    names = [name.strip() for name in runtime.split(",")]
    if not runtime:
        return None
    return names * count if len(names) == 1 else names


def _align(text: str) -> int | None:
    from bench.alignment.profiles import alignment_of

    if not text or text.isdecimal():
        return int(text) if text else None
    try:
        return alignment_of(text)
    except ValueError as error:
        raise CompressError(f"--align {error}") from error
