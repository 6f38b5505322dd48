"""The one place where an exception becomes a message and an exit code."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from compress.errors import CompressError, GateError

STOPPED = 130
_OUR_FAULT = 1
_MISSING_LIBRARY = 2


@dataclass
class Session:
    """One call of the command line. ``folder`` is where a traceback can be left."""

    debug: bool = False
    folder: Path | None = None


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Show the user's faults as one message, ours as a short line; no traceback either way.

    ``command`` takes the typer context, with a ``Session`` in it, as ``context``.
    """

    @wraps(command)
    def call(context: typer.Context, **options: Any) -> None:
        try:
            command(context=context, **options)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if context.obj.debug:
                traceback.print_exc()
            known = explain(error, context.obj.folder is not None)
            text, code = known or (_own_up(error, context.obj), _OUR_FAULT)
            typer.echo(text, err=True)
            # a missed gate has its run record on stdout already
            if options.get("as_json") and not isinstance(error, GateError):
                typer.echo(json.dumps({"status": "error", "error": text, "exit_code": code}))
            raise typer.Exit(code) from None

    return call


def explain(error: BaseException, in_run: bool) -> tuple[str, int] | None:
    """Message and exit code for a fault that the user can mend; None for a fault of ours.

    ``in_run``: stages were running.
    """
    if isinstance(error, KeyboardInterrupt):
        kept = ": every finished stage is kept, and the same command goes on from there"
        return f"stopped{kept if in_run else '.'}", STOPPED
    if isinstance(error, ModuleNotFoundError):
        message = _missing_library(error.name or "")
        return (message, _MISSING_LIBRARY) if message else None
    if isinstance(error, (CompressError, *_library_errors())):
        return str(error), int(getattr(error, "exit_code", CompressError.exit_code))
    return None


def _library_errors() -> tuple[type[Exception], ...]:
    from bench.errors import BenchError
    from deploy.errors import DeployError
    from export.errors import ExportError

    return BenchError, DeployError, ExportError


def _missing_library(module: str) -> str:
    from compress.doctor import extra_of

    extra = extra_of(module)
    if not extra:
        return ""
    return f"'{module}' is not installed: pip install 'yolo-compress[{extra}]'"


def _own_up(error: BaseException, session: Session) -> str:
    what = f"this is a fault of compress, not of yours: {type(error).__name__}: {error}"
    if session.debug:
        return what
    if session.folder is None or not session.folder.is_dir():
        return f"{what}\nSee where: put --debug after 'compress' and run it again"
    log = session.folder / "error.txt"
    log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"{what}\nThe traceback is in '{log}'. Finished stages are kept"
