"""``compress bench compare``: what became slower from one result to the next."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from compress import output
from compress.faults import guarded

_SLOWER = 3


@guarded
def compare(
    context: typer.Context,
    before: Annotated[Path, typer.Argument(help="The result to hold against, a JSON file")],
    after: Annotated[Path, typer.Argument(help="The result in question, a JSON file")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Share by which runs differ without a reason")
    ] = 0.03,
    relative: Annotated[
        bool, typer.Option("--relative", help="Compare times over those of the first file")
    ] = False,
    any_machine: Annotated[
        bool, typer.Option("--any-machine", help="Even if the machines differ")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout")
    ] = False,
) -> None:
    """Compare two results; exit code 3 if a file became slower beyond noise."""
    from bench.results.compare import compare as compared
    from bench.results.files import read_result
    from bench.results.text import render_comparison

    found = compared(
        read_result(before),
        read_result(after),
        tolerance=tolerance,
        relative=relative,
        any_machine=any_machine,
    )
    if as_json:
        output.show_json({**asdict(found), "slower": found.slower})
    else:
        typer.echo(render_comparison(found))
    if found.slower:
        typer.echo(f"Slower beyond noise: {', '.join(found.slower)}", err=True)
        raise typer.Exit(_SLOWER)
