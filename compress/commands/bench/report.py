"""``compress bench report``: a result as text, Markdown or a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compress.faults import guarded


@guarded
def report(
    context: typer.Context,
    result: Annotated[Path, typer.Argument(help="A result, the JSON file of --out")],
    html: Annotated[Path | None, typer.Option(help="Write a page with plots")] = None,
    md: Annotated[Path | None, typer.Option(help="Write the table as Markdown")] = None,
) -> None:
    """Show a result again: as text, or as the files that are named."""
    from bench.results.files import read_result
    from bench.results.page import result_page, write_page
    from bench.results.text import render

    found = read_result(result)
    if html is not None:
        write_page(html, result_page(found))
    if md is not None:
        write_page(md, f"{render(found, markdown=True)}\n")
    if html is None and md is None:
        typer.echo(render(found))
