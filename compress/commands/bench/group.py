"""The group of bench commands, of which ``measure`` needs no name."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from compress.commands.bench.compare import compare
from compress.commands.bench.history import history
from compress.commands.bench.measure import measure
from compress.commands.bench.profile import profile
from compress.commands.bench.report import report
from compress.commands.bench.roofline import roofline

_DEFAULT = "measure"


class _MeasureByDefault(TyperGroup):
    """``compress bench a.onnx`` means ``compress bench measure a.onnx``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front where another word stands there."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_DEFAULT, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_MeasureByDefault,
    help="Measure artifacts against each other in one interleaved run: compress bench FILE ...",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command(_DEFAULT)(measure)
app.command("profile")(profile)
app.command("compare")(compare)
app.command("history")(history)
app.command("report")(report)
app.command("roofline")(roofline)
