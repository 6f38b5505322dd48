"""What goes to stdout: tables for people, one JSON document for pipelines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from compress.pipeline.job import Job, Place
    from compress.pipeline.plan import PlannedStep

_FILE_WIDTH = 160  # columns of a table that goes to a file or a pipe


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Send what libraries print to stdout, also from C and from workers, to stderr instead."""
    stdout, descriptor = sys.stdout, os.dup(1)
    stdout.flush()
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        stdout.flush()
        os.dup2(descriptor, 1)
        os.close(descriptor)


def show(renderable: RenderableType) -> None:
    """Print a rich table; off a terminal it is as wide as it needs to be."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _FILE_WIDTH).print(renderable)


def show_json(value: Any) -> None:
    """Print ``value`` as one JSON document."""
    typer.echo(json.dumps(value, indent=1))


def show_run(folder: Path, ran: Sequence[str], as_json: bool) -> None:
    """The end of a run into ``folder``. ``ran`` names the stages that were not cached."""
    from compress.pipeline.files import read_json
    from compress.pipeline.job import RECORD

    record = read_json(folder / RECORD)
    reports = {"md": str(folder / "report.md"), "html": str(folder / "report.html")}
    if as_json:
        show_json({**record, "ran": list(ran), "run_folder": str(folder), "report": reports})
        return
    from compress.report import summary_table

    show(summary_table(record))
    for trial in record.get("trials", ()):
        typer.echo(_trial(trial))
    if not ran and record["status"] == "done":
        typer.echo(f"All {len(record['stages'])} stages are cached: nothing had to run.")
    typer.echo(f"Report: {reports['html']}")


def show_plan(steps: Sequence[PlannedStep], job: Job, place: Place, as_json: bool) -> None:
    """Hit or miss of each stage, and why."""
    if as_json:
        where = {"run_folder": str(place.run), "cache": str(place.cache)}
        show_json({"recipe": job.name, **where, "steps": [asdict(step) for step in steps]})
        return
    width = max(len(step.name) for step in steps)
    for step in steps:
        typer.echo(f"{step.name:{width}}  {_verdict(step)}")
    typer.echo(f"Run folder: {place.run}")


def show_fields(fields: Mapping[str, Any]) -> None:
    """Named values, one a line."""
    for name, value in fields.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        typer.echo(f"{name}: {text}")


def _trial(trial: Mapping[str, Any]) -> str:
    target = ", ".join(f"{unit} {value:g}" for unit, value in trial["target"].items())
    verdict = "holds" if trial["passed"] else "misses its gate"
    return f"Trial {trial['trial']}: '{trial['prune']}' to {target}: '{trial['stage']}' {verdict}"


def _verdict(step: PlannedStep) -> str:
    verdict = f"{step.state}: {step.reason}" if step.reason else step.state
    return f"{verdict} ({step.note})" if step.note else verdict
