"""``compress bench profile FILE [FILE]``: what takes the time, by PyTorch module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress import output
from compress.commands.options import shape_of
from compress.faults import guarded


@guarded
def profile(
    context: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(help="One exported file, or two to be compared by module")
    ],
    runtime: Annotated[
        str, typer.Option(help="onnxruntime, openvino or tensorrt [default: by suffix]")
    ] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda or jetson")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of one inference")] = 1,
    top: Annotated[int, typer.Option(min=1, help="Rows of a table")] = 15,
    min_seconds: Annotated[
        float, typer.Option(min=0, help="Least time of each loop, with and without profiler")
    ] = 2.0,
    shape: Annotated[
        str, typer.Option(help="Input of files that leave it open, such as 1,3,640,640")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout")
    ] = False,
) -> None:
    """Time every layer by the runtime's own profiler and name what would have to shrink."""
    from bench.profile.run import profile_files
    from bench.profile.text import render_profiles
    from bench.settings import Settings

    sizes = shape_of(shape)
    settings = Settings(
        device=device,
        threads=threads,
        min_seconds=min_seconds,
        min_count=1,
        shape=None if sizes is None else list(sizes),
    )
    with output.stdout_for_results():
        profiles = profile_files(files, settings, runtime)
    if as_json:
        output.show_json(profiles.as_json())
    else:
        typer.echo(render_profiles(profiles, top))
