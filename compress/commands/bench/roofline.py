"""``compress bench roofline FILE``: the floor that data sheets allow, named an estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress import output
from compress.commands.options import shape_of
from compress.faults import guarded


@guarded
def roofline(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="ONNX file, float or with Q/DQ; or an engine")],
    board: Annotated[
        list[str] | None,
        typer.Option(help="A board of docs/roofline.md; may be given again [default: all]"),
    ] = None,
    shape: Annotated[
        str, typer.Option(help="Input of a file that leaves it open, such as 1,3,640,640")
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout")
    ] = False,
) -> None:
    """Estimate, from data sheets, the least time that a net takes on boards. Measures nothing."""
    from bench.roofline.run import render_roofline, roofline_of

    found = roofline_of(file, board or (), shape_of(shape))
    if as_json:
        output.show_json(found.as_json())
    else:
        typer.echo(render_roofline(found))
