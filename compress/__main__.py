"""The command ``compress``, also as ``python -m compress``."""

from __future__ import annotations

from compress.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="compress")


if __name__ == "__main__":
    main()
