"""``compress bench``: measure artifacts; compare, show and explain what was measured."""

from compress.commands.bench.group import app

__all__ = ["app"]
