"""``compress bench history``: how files fared from result to result."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from compress import output
from compress.faults import guarded


@guarded
def history(
    context: typer.Context,
    results: Annotated[list[Path], typer.Argument(help="Results (JSON), or folders of them")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Share by which runs differ without a reason")
    ] = 0.03,
    html: Annotated[Path | None, typer.Option(help="Write a page with a plot")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout")
    ] = False,
) -> None:
    """Show the median latency of each file on each machine over time."""
    from bench.results.history import read_history
    from bench.results.page import history_page, write_page
    from bench.results.text import render_history

    found = read_history(results, tolerance)
    if html is not None:
        write_page(html, history_page(found))
    if as_json:
        output.show_json(asdict(found))
    else:
        typer.echo(render_history(found))
