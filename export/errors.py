"""Faults of an export that the user can mend."""

from __future__ import annotations


class ExportError(Exception):
    """Says what is wrong with which file or layer, and what to do."""

    exit_code = 2
